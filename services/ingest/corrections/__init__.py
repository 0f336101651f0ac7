"""Void and amend: an event is taken back, or replaced, by rows of its own that sum with it. The original is never edited.

Who asks for a correction names the original by its CloudEvents id. Its reversal has an id that follows from the original's, so that the
unique key of identities refuses a second one, whoever sends it and whenever. A correction whose original is not known waits for it.
"""

from services.ingest.corrections.apply import Corrected, apply_corrections
from services.ingest.corrections.decisions import Correcting

__all__ = ["Corrected", "Correcting", "apply_corrections"]
