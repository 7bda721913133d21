# verbsim profile: iWARP, RDMA over TCP; no delays, for tests of behaviour.
#
# What an iWARP adapter does otherwise is in docs/verbsim.md: above all, the
# peer's leaving puts the queue pair into error at once, and then receives can
# no longer be posted, as with Chelsio's (libcxgb4, which answers -EINVAL).

device = verbsim0
link-layer = ethernet
transport = iwarp
bandwidth = unlimited
latency = 0

# There is no acknowledgement time-out, but TCP gives up at some time, too:
# 2.2 s, seven times more.
ack-timeout = 19
