"""The built-in test softphone: a scripted person on the far end of a telephone.

It is built on pyVoIP 1.6.8 (GPLv3) and imports nothing else of ``gateway``: it
runs in its own process (``python -m gateway.softphone``) and meets the gateway
only over SIP and RTP. The modules that mend pyVoIP say which line they mend.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # pyVoIP imports audioop, which Python 3.11 calls deprecated; we do not use it.
    warnings.filterwarnings("ignore", "'audioop' is deprecated", DeprecationWarning)
    # pyVoIP's modules import each other in a circle: pyVoIP.SIP or pyVoIP.RTP taken
    # first fails with AttributeError, pyVoIP.VoIP taken first works.
    import pyVoIP.VoIP  # noqa: F401
