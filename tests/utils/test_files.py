import errno
from pathlib import Path

import pytest

from utils.files import atomic_write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_lack_of_room_names_the_file(tmp_path: Path, number: int) -> None:
    path = tmp_path / "args.json"
    path.write_text("old")
    with pytest.raises(OSError) as caught, atomic_write(path) as temporary:
        temporary.write_text("ne")
        raise OSError(number, "no room")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
