"""A node of one CPU for the Ray cluster at an address of the loopback interface (`ray_node.py ADDRESS`), which
`ray start` would look for at the machine's outward one: prints `up`; ends with its input."""

import sys

from ray._private.node import Node
from ray._private.parameter import RayParams

address = sys.argv[1]
node = Node(
    RayParams(
        gcs_address=address,
        num_cpus=1,
        num_gpus=0,
        node_ip_address="127.0.0.1",
        object_store_memory=150 << 20,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        dashboard_agent_listen_port=None,
    ),
    head=False,
)
print("up", flush=True)
sys.stdin.readline()
node.kill_all_processes(check_alive=False)
