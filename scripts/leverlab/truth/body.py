"""What of a request's body the truth engine honours."""

import msgspec


class Message(msgspec.Struct):
    """A message of a chat."""

    content: str | list[dict[str, object]] = ""


class StreamOptions(msgspec.Struct):
    """Which usage is wanted in a stream."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class KvTransfer(msgspec.Struct):
    """What prefill/decode disaggregation says of the KV cache, in the words of vLLM's connectors."""

    do_remote_decode: bool = False
    do_remote_prefill: bool = False
    remote_num_tokens: int = 0


class Body(msgspec.Struct):
    """A request for tokens, of either endpoint."""

    prompt: str | list[int | str] | None = None
    messages: list[Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    return_token_ids: bool | None = False
    temperature: float | None = None
    kv_transfer_params: KvTransfer | None = None

    @property
    def limit(self) -> int:
        """The most tokens that may be generated; 16 where the request does not say, as OpenAI's interface has it."""
        return self.max_completion_tokens or self.max_tokens or 16

    def text(self) -> str:
        """The whole prompt, or its ids where ids were given."""
        if self.messages is not None:
            return " ".join(str(message.content) for message in self.messages)
        prompt = self.prompt or ""
        return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))

    def words(self) -> list[str]:
        """The prompt's tokens: words, or the ids where ids were given."""
        return self.text().split()
