"""How the pipeline stands, for operators: read from the database alone, so that it is told also where no Prometheus is."""

from services.api.operation.reading import Service, Standing, Unpublished, read_standing

__all__ = ["Service", "Standing", "Unpublished", "read_standing"]
