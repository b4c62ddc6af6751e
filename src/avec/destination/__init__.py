"""The strong machine's side: a server that accepts hosts, and a worker process for each session."""

LOG_FORMAT = "avec: %(asctime)s %(levelname)s %(message)s"
