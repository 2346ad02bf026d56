"""The warm-up: which prompts it sends, and when it believes that the server is steady."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from leverlab.load.plan import PlannedRequest
from leverlab.models.tokenizer import synthetic_tokenizer
from leverlab.trial.warmup import MAXIMUM_OUTPUT_TOKENS, MAXIMUM_WINDOWS, PromptMaker, Window, warm_up, window_lengths


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.json").write_text(synthetic_tokenizer(10_000).to_str())
    return folder


def planned(prompt_tokens: int, output_tokens: int) -> PlannedRequest:
    return PlannedRequest(0, "r-0", "", prompt_tokens, output_tokens, 0.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers window after window with the given (TTFT, TPOT), each window taking a second."""

    def __init__(self, times: list[tuple[float, float | None]], clock: Clock) -> None:
        self.times, self.clock, self.windows = times, clock, 0

    def __call__(self, requests) -> pa.Table:
        ttft, tpot = self.times[min(self.windows, len(self.times) - 1)]
        self.windows += 1
        self.clock.now += 1.0
        return pa.table({"ttft_s": [ttft] * len(requests), "tpot_s": pa.array([tpot] * len(requests), pa.float64())})


def run(model_folder: Path, times: list[tuple[float, float | None]]):
    clock = Clock()
    server = Server(times, clock)
    return warm_up([(20, 4)] * 3, PromptMaker(model_folder, "r1"), server, clock), server


def test_it_ends_when_two_windows_in_a_row_agree(model_folder: Path) -> None:
    done, server = run(model_folder, [(9.0, 0.5), (1.0, 0.1), (1.05, 0.105), (1.0, 0.1)])
    assert done.steady and server.windows == 3
    assert done.windows[-1] == Window(1.05, 0.105)


def test_it_gives_up_and_says_so(model_folder: Path) -> None:
    done, server = run(model_folder, [(2.0**-n, 0.1) for n in range(20)])
    assert not done.steady and server.windows == MAXIMUM_WINDOWS
    assert json.dumps(done.as_mapping())


def test_a_tpot_that_still_moves_is_not_steady() -> None:
    assert not Window(1.0, 0.1).agrees(Window(1.0, 0.12))
    assert Window(1.0, 0.1).agrees(Window(1.09, 0.1))
    assert not Window(1.0, 0.1).agrees(Window(1.2, 0.1))
    assert Window(1.0, None).agrees(Window(1.0, None)), "one token of output has no TPOT"
    assert not Window(None, None).agrees(Window(None, None)), "a server that answers nothing is not steady"
    assert not Window(1.0, None).agrees(Window(1.0, 0.1))


def test_patience_is_counted_from_the_second_window(model_folder: Path) -> None:
    clock = Clock()
    server = Server([(2.0**-n, 0.1) for n in range(20)], clock)

    def slow(requests) -> pa.Table:
        clock.now += 100.0 if server.windows == 0 else 4.0
        return server(requests)

    done = warm_up([(20, 4)], PromptMaker(model_folder, "r1"), slow, clock)
    assert len(done.windows) == 3 and not done.steady


def test_prompts_have_their_lengths_and_never_repeat(model_folder: Path) -> None:
    maker, other = PromptMaker(model_folder, "r1"), PromptMaker(model_folder, "r2")
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    made = [maker.request(length, 4) for length in (1, 7, 300, 300, 300)]
    assert [len(tokenizer.encode(request.prompt).ids) for request in made] == [1, 7, 300, 300, 300]
    assert len({request.prompt for request in made[2:]}) == 3
    assert len({request.request_id for request in made}) == 5
    assert PromptMaker(model_folder, "r1").request(300, 4).prompt != other.request(300, 4).prompt
    assert (
        PromptMaker(model_folder, "r1").request(300, 4).prompt == PromptMaker(model_folder, "r1").request(300, 4).prompt
    )


def test_a_window_has_the_workloads_lengths() -> None:
    mixed = [planned(100, 4)] * 10 + [planned(2000, 64)] * 5
    assert window_lengths(mixed) == [(100, 4), (100, 4), (2000, MAXIMUM_OUTPUT_TOKENS)]
    assert window_lengths([planned(50, 2)]) == [(50, 2)] * 3
