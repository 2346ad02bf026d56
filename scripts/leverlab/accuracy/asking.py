"""Asking a server the study's own prompts: one at a time, greedily, so that nothing but the server decides the answer."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx

_PATH: Final = "/v1/completions"


class NoAnswerError(Exception):
    """The server answered a prompt with something else than text."""


def ask(
    client: httpx.Client,
    model: str,
    prompts: Sequence[str],
    tokens: int,
    timeout_s: float,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """`{prompt, text, finish_reason, completion_tokens}` of each prompt, at temperature 0.

    One request is under way at a time: in a batch the order of additions, and with it the last bits of every number,
    depends on who else is in it. Raises NoAnswerError, and httpx.HTTPError where the server does not answer at all.
    """
    answers = []
    for number, prompt in enumerate(prompts, start=1):
        progress(f"prompt {number} of {len(prompts)}")
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        answer = client.post(_PATH, json=body, timeout=timeout_s)
        if answer.status_code != httpx.codes.OK:
            raise NoAnswerError(f"prompt {number}: status {answer.status_code}: {answer.text[:300]}")
        try:
            (choice,) = answer.json()["choices"]
            text = str(choice["text"])
        except (ValueError, KeyError, TypeError):
            raise NoAnswerError(f"prompt {number}: no completion in {answer.text[:300]}") from None
        usage = answer.json().get("usage") or {}
        answers.append(
            {
                "prompt": prompt,
                "text": text,
                "finish_reason": choice.get("finish_reason"),
                "completion_tokens": usage.get("completion_tokens"),
            }
        )
    return answers
