"""The front of several engine servers: a router over replicas, or the proxy of prefill/decode disaggregation.

One thread and an epoll, as in the load client and the truth engine: an answer's bytes go to the client as they come, unchanged,
and what the proxy itself adds to each request is measured from the kernel's receive stamps (`leverlab.proxy.metrics`).
"""
