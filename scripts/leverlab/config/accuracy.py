"""What a study asks of its models' answers: a task of lm_eval, and prompts whose answers are laid side by side."""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, field_validator

from leverlab.config.base import Seconds, StrictModel

PROMPTS: Final = (
    "The capital of France is",
    "A train leaves at 9:40 and arrives at 12:15. The journey takes",
    "Write a Python function that returns the n-th Fibonacci number.\n\ndef fibonacci(n):",
    "Explain in two sentences why the sky is blue.\n",
    "Translate into German: The weather was fine, so we walked home along the river.\n",
)
"""Short prompts of several kinds: a fact, arithmetic, code, an explanation, a translation."""

COLLECTED: Final = ("score", "change", "identical answers", "pareto", "side by side")
"""What `collects: accuracy: …` may name: columns and figures of the report's section on accuracy."""


def _task_alone(value: Any) -> Any:  # noqa: ANN401 - whatever YAML made of it
    return {"task": value} if isinstance(value, str) else value


class Accuracy(StrictModel):
    """What every server of the study is asked besides: a task of lm_eval, greedily, and prompts to compare answers by."""

    task: str = Field(
        default="gsm8k",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="a task of lm_eval whose answers are generated (`output_type: generate_until`)",
    )
    limit: int | None = Field(default=None, ge=1, description="how many of its questions, from the first; default: all")
    few_shot: int | None = Field(
        default=None, ge=0, description="worked examples before each question; default: as the task says"
    )
    seed: int = Field(default=1234, ge=0, description="draws the worked examples; the same for all servers")
    data: str | None = Field(
        default=None,
        description="a folder with a file `<split>.jsonl` for each split of the task; default: what the task names, from the hub",
    )
    concurrency: int = Field(default=8, ge=1, description="questions under way at a time")
    timeout: Seconds = Field(default=600, description="how long an answer is waited for")
    prompts: list[Annotated[str, Field(min_length=1)]] = Field(
        default=list(PROMPTS), description="prompts whose answers the report lays side by side, sent one at a time"
    )
    prompt_tokens: int = Field(default=64, ge=1, description="tokens of each of these answers")
    random_weights: bool = Field(
        default=False,
        description="ask models with dummy weights too: it shows that the pipeline works, and says nothing about accuracy",
    )

    @field_validator("prompts")
    @classmethod
    def _prompts_differ(cls, prompts: list[str]) -> list[str]:
        if len(set(prompts)) != len(prompts):
            raise ValueError("prompts: one stands twice")
        return prompts


AccuracyForm = Annotated[Accuracy, BeforeValidator(_task_alone, json_schema_input_type=str | Accuracy)]
