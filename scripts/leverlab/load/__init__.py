"""The instrument: a replay client that offers a workload to a server, stamps what comes back, and states its own error.

`plan` says what is sent, `replay` sends it, `parse` turns the raw log into tables (`schema`), `instrument` states the
error, `vllm_bench` is an adapter for the client that vLLM's users know. docs/instrument.md explains all of it.
"""
