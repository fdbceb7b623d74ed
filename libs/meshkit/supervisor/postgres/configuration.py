"""How the embedded Postgres is configured: durable, modest, quiet when idle."""

from __future__ import annotations

from meshkit.supervisor.ports import LOOPBACK

SETTINGS: dict[str, str] = {
    # Reached over loopback only, without TLS and without a socket file others could find.
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    # Nothing acknowledged is lost: these are the defaults, stated because they must not change.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Memory of a laptop that does other things too.
    "shared_buffers": "96MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "512MB",
    "min_wal_size": "80MB",
    "max_wal_size": "512MB",
    # A single node without standby: less to write, no sender processes.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    # Searches are short; the cores belong to the models. No parallel index build either: it needs
    # more shared memory than a container's /dev/shm has.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "io_method": "sync",
    "random_page_cost": "1.1",
    # Asleep unless there is work.
    "bgwriter_delay": "10s",
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1MB",
    "checkpoint_timeout": "15min",
    # A log line never carries a statement, a row or a value: those are people's documents.
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def arguments(port: int) -> list[str]:
    """Command-line arguments of `postgres` (none of them secret)."""
    settings = {"port": str(port), **SETTINGS}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
