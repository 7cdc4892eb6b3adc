"""A Ray cluster of two nodes of one CPU each on the loopback interface: prints its address; a line of input kills the
second node, and another one ends it."""

import sys

from ray.cluster_utils import Cluster

usual = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=usual)
second = cluster.add_node(**usual)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("killed", flush=True)
sys.stdin.readline()
cluster.shutdown()
