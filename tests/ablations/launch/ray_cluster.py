"""A Ray cluster on the loopback interface, of two nodes of one CPU each, or of a head alone where it is told so
(`ray_cluster.py head`): prints its address; a line of input kills the second node, and another one ends it."""

import sys

from ray.cluster_utils import Cluster

usual = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
head = sys.argv[1:] == ["head"]
cluster = Cluster(initialize_head=True, head_node_args=usual | {"num_cpus": int(not head)})
second = None if head else cluster.add_node(**usual)
print(cluster.address, flush=True)
if second is not None:
    sys.stdin.readline()
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
sys.stdin.readline()
cluster.shutdown()
