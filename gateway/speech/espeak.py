"""The speaking process: espeak-ng (GPL-3) behind a pipe, so that it never enters the gateway's own process.

``python -m gateway.speech.espeak`` reads one JSON object a line, ``{"text", "voice", "words_per_minute"}``, and answers each
with one line, ``{"rate": Hz, "octets": n}`` or ``{"error": "..."}``, followed by *n* octets of 16-bit little-endian samples.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

_RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples come to a callback, no sound card
_PARAMETER_RATE = 1
_CHARS_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """libespeak-ng. Raises ImportError without the wheel, OSError when the library does not start."""

    def __init__(self) -> None:
        import espeakng_loader  # noqa: PLC0415 - only this process may load it

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.rate = int(self._library.espeak_Initialize(_RETRIEVAL, 0, data, 0))
        if self.rate <= 0:
            raise OSError("espeak-ng does not start")
        self._samples = bytearray()
        self._callback = _CALLBACK(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, words_per_minute: int) -> bytes:
        """16-bit samples at ``rate`` Hz. Raises ValueError for an unknown voice, OSError when nothing is spoken."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_PARAMETER_RATE, words_per_minute, 0)
        self._samples.clear()
        data = text.encode()
        if self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _CHARS_UTF8, None, None) != 0:
            raise OSError("espeak-ng does not speak")
        self._library.espeak_Synchronize()
        return bytes(self._samples)

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._samples += ctypes.string_at(samples, 2 * count)
        return 0


def main() -> None:
    try:
        engine = Espeak()
    except (ImportError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"rate": engine.rate, "octets": 0}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            samples = engine.speak(asked["text"], asked["voice"], asked["words_per_minute"])
        except (ValueError, OSError) as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        print(json.dumps({"rate": engine.rate, "octets": len(samples)}), flush=True)
        sys.stdout.buffer.write(samples)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
