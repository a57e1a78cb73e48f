"""The main job on this machine, and the benches that run over its path."""

from __future__ import annotations

from pathlib import Path

VOICES = Path(__file__).parent / "voices"
"""Clips of the demo's callers: VOICES/voice/clip.wav."""
