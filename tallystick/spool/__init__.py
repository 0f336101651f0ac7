"""A queue of records on disk. Knows nothing of usage: bytes go in, and stay until somebody says that they have been delivered.

A record survives the end of the process, by SIGKILL too, from the moment that `append` returns, and the end of the machine from the next
`sync` on. It is handed out at least once, in order.
"""

from tallystick.spool.claiming import adopt_siblings, claim
from tallystick.spool.files import Locked
from tallystick.spool.spool import Batch, Limits, Spool

__all__ = ["Batch", "Limits", "Locked", "Spool", "adopt_siblings", "claim"]
