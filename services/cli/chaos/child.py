"""`python -m services.cli.chaos.child PARENT MODULE`: as `services.cli.child`, with failpoints. Only the harness starts it."""

from __future__ import annotations

import os
import sys

from services.cli.chaos.failpoints import of_this_process
from services.cli.child import main

if __name__ == "__main__":
    service = sys.argv[2].rpartition(".")[2]
    of_this_process(dict(os.environ), f"{service}-{os.environ['TALLYSTICK_INSTANCE']}").install(service)
    main()
