import errno
import json
from pathlib import Path

import pytest

from utils.files import atomic_write, write_json


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_lack_of_room_names_the_file(tmp_path: Path, number: int) -> None:
    path = tmp_path / "args.json"
    path.write_text("old")
    with pytest.raises(OSError) as caught, atomic_write(path) as temporary:
        temporary.write_text("ne")
        raise OSError(number, "no room")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_json_does_not_have_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"name": "Zoë", "values": [1.5, None]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Zoë", "values": [1.5, None]}
    before = path.read_bytes()
    for content in ({"values": [float("nan")]}, {"path": tmp_path}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, content)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
