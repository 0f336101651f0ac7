"""How the pipeline stands, for operators: read from the database, so that it is told also where no Prometheus is."""

from services.api.operation.lag import Ends, Lag
from services.api.operation.reading import Freshness, Service, Standing, Unpublished, read_standing

__all__ = ["Ends", "Freshness", "Lag", "Service", "Standing", "Unpublished", "read_standing"]
