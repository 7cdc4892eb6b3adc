"""How this process becomes a driver of a Ray cluster, and what it keeps there."""

import os
import secrets
import signal
import socket
import threading
from typing import Any

from ablations.home import ROOT
from models.base.typed import ConfigError

OF_A_LOCAL_RAY = {
    # Without it Ray takes the machine's outward address, and its services listen on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
"""What a Ray of this machine alone is started with: it listens on the loopback interface, for who knows its token."""


class RayStore:
    """Pieces in Ray's own store, which keeps on disk what memory does not hold, and one copy on a node."""

    def put(self, piece: bytes) -> Any:
        import ray

        return ray.put(piece)

    def get(self, name: Any) -> bytes:
        import ray

        content: bytes = ray.get(name)
        return content


def connect(address: str | None, cpus: int) -> None:
    """Become a driver of that cluster, or of a new one of this machine with as many CPUs. Raises ConfigError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_answers(address)
    if address is None:
        os.environ |= OF_A_LOCAL_RAY | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray  # reads them

    # It writes pages on a lost raylet, into whatever is displayed; what was lost is said here.
    ray._private.worker._worker_logs_enabled = False
    own: dict[str, Any] = {"address": address}
    if address is None:
        own = {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            **own,
            job_config=ray.job_config.JobConfig(code_search_path=[str(ROOT)]),
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"launch.address={address}: no Ray cluster can be joined there ({first_line(error)}); start one (ray "
            "start --head) and name its address, or leave launch.address out for one of this machine"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there


def _check_answers(address: str | None) -> None:
    """Raise ConfigError where nobody listens at `HOST:PORT`: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"launch.address={address}: nobody answers there ({error}); start one (ray start --head) and name its "
            "address, or leave launch.address out for one of this machine"
        ) from None


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
