"""The local supervisor: everything `citemesh up` starts, watches and stops.

One asyncio process owns a data directory, runs an embedded Postgres, prepares its schema and
keeps the services and the gateway alive as child processes. Production uses an orchestrator
instead; the services cannot tell the difference, they only see addresses in their environment.
"""
