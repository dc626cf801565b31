"""Locations in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository's root; relative paths of a config start here."""
RECIPE_CONFIG = ROOT / "egs" / "tts" / "VALLE" / "exp_config.json"
"""The config of the recipe, which an installed package does not have."""
PRETRAINED = ROOT / "egs" / "tts" / "VALLE" / "pretrained"
"""The experiment folder of the pretrained pair."""
