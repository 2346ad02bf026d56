"""lm_eval as the accuracy job runs it: found, told, watched, ended, read; on stand-ins for its interpreter."""

import json
import sys
from pathlib import Path

import pytest

from leverlab.accuracy.asking import NoAnswerError, ask
from leverlab.accuracy.harness import (
    CannotAskError,
    FoundTask,
    HarnessError,
    arguments,
    check_splits,
    find_task,
    run,
    scores_of,
    take_results,
    write_task,
)
from leverlab.accuracy.samples import read_questions
from leverlab.redaction import Redactor

KEY = "sk-a-key-of-one-server"


class DiedError(Exception):
    pass


def stand_in(folder: Path, answer: dict[str, object]) -> list[str]:
    """A command that answers `-c PROGRAM TASK` as an environment with lm_eval would."""
    script = folder / "python.py"
    script.write_text(f"print('a warning of a library')\nprint('leverlab:' + {json.dumps(answer)!r})\n")
    return [sys.executable, str(script)]


def told(**changed: object) -> dict[str, object]:
    found = {
        "version": "0.4.13",
        "known": [],
        "path": "/tasks/gsm8k.yaml",
        "output_type": "generate_until",
        "splits": ["test"],
    }
    return {**found, **changed}


def test_a_task_is_found_with_its_file_and_splits(tmp_path: Path) -> None:
    assert find_task(stand_in(tmp_path, told()), "gsm8k") == FoundTask("0.4.13", Path("/tasks/gsm8k.yaml"), ["test"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (told(known=["gsm8k", "hellaswag"]), "has no 'gsm8'; did you mean 'gsm8k'?"),
        (told(path=None), "is a group of tasks"),
        (told(output_type="multiple_choice"), "scored by likelihoods (multiple_choice)"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(tmp_path: Path, answer: dict[str, object], message: str) -> None:
    with pytest.raises(CannotAskError) as error:
        find_task(stand_in(tmp_path, answer), "gsm8")
    assert message in str(error.value)


def test_an_interpreter_that_is_not_there_or_has_no_lm_eval_is_named() -> None:
    for prefix in (["/no/such/python"], [sys.executable, "-S"]):
        with pytest.raises(CannotAskError) as error:
            find_task(prefix, "gsm8k")
        assert "does not run lm_eval" in str(error.value)


def test_local_files_take_the_place_of_the_tasks_data(tmp_path: Path) -> None:
    task = FoundTask("0.4.13", Path("/tasks/gsm8k.yaml"), ["test", "train"])
    files = {name: tmp_path / f"{name}.jsonl" for name in ("test", "train", "other")}
    written = json.loads(Path(write_task(tmp_path, task, files)).read_text())
    assert written["include"] == "/tasks/gsm8k.yaml"
    assert written["dataset_path"] == "json"
    assert written["dataset_kwargs"] == {"data_files": {name: str(files[name]) for name in ("test", "train")}}
    check_splits(task, files)
    with pytest.raises(CannotAskError, match=r"no file train\.jsonl"):
        check_splits(task, {"test": files["test"]})


def test_arguments_are_greedy_and_hold_what_is_asked_and_no_key(tmp_path: Path) -> None:
    asked = {"limit": 20, "few_shot": 0, "seed": 7, "concurrency": 3}
    given = arguments("gsm8k", asked, "http://127.0.0.1:1/v1/completions", "model", 60.0, tmp_path)
    said = " ".join(given)
    assert "--limit 20" in said and "--num_fewshot 0" in said and "--seed 7" in said
    model = json.loads(given[given.index("--model_args") + 1])
    assert (model["num_concurrent"], model["tokenized_requests"], model["timeout"]) == (3, False, 60)
    assert json.loads(given[given.index("--gen_kwargs") + 1])["temperature"] == 0
    bare = arguments("gsm8k", {}, "http://127.0.0.1:1/v1/completions", "model", 60.0, tmp_path)
    assert "--limit" not in bare and "--num_fewshot" not in bare


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def harness_run(command: list[str], folder: Path, alive=lambda: None) -> None:
    redactor = Redactor({"API_KEY": KEY})
    run(command, KEY, folder, offline=True, cores=[], redactor=redactor, check_alive=alive, progress=lambda _: None)


def test_the_key_goes_by_the_environment_and_into_no_log(tmp_path: Path) -> None:
    harness_run(program("import os; print(os.environ['OPENAI_API_KEY'], os.environ['HF_HUB_OFFLINE'])"), tmp_path)
    assert (tmp_path / "lm_eval.log").read_text() == "<API_KEY> 1\n"


def test_a_failure_shows_the_end_of_what_was_said(tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as error:
        harness_run(program("import sys; print('first'); sys.exit('no data')"), tmp_path)
    assert "status 1: no data" in str(error.value)
    assert error.value.tail == ["first", "no data"] or error.value.tail[-1] == "no data"


def test_a_server_that_died_ends_it_at_once(tmp_path: Path) -> None:
    looked = []

    def alive() -> None:
        looked.append(1)
        if len(looked) > 1:
            raise DiedError

    with pytest.raises(DiedError):
        harness_run(program("import time; time.sleep(600)"), tmp_path, alive)
    assert (tmp_path / "lm_eval.log").exists()


RESULTS = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,flexible-extract": 0.5,
            "exact_match_stderr,flexible-extract": 0.1,
            "exact_match,strict-match": 0.4,
            "exact_match_stderr,strict-match": "N/A",
        }
    },
    "configs": {"gsm8k": {"filter_list": [{"name": "strict-match"}, {"name": "flexible-extract"}]}},
    "higher_is_better": {"gsm8k": {"exact_match": True}},
    "n-samples": {"gsm8k": {"original": 40, "effective": 20}},
}


def test_scores_come_in_the_order_of_the_tasks_filters() -> None:
    one, two = scores_of(RESULTS)
    assert (one.filter, one.value, one.standard_error, one.questions) == ("strict-match", 0.4, None, 20)
    assert (two.filter, two.standard_error) == ("flexible-extract", 0.1)
    with pytest.raises(HarnessError, match="no score"):
        scores_of({**RESULTS, "results": {"gsm8k": {"alias": "gsm8k"}}})


def test_what_was_written_gets_lasting_names(tmp_path: Path) -> None:
    output = tmp_path / "output" / "model"
    output.mkdir(parents=True)
    with pytest.raises(HarnessError, match="0 files"):
        take_results(output, tmp_path)
    (output / "results_2026.json").write_text(json.dumps(RESULTS))
    sample = {
        "doc_id": 0, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "resps": [["It is 7."]],
        "metrics": ["exact_match"], "filter": "strict-match", "exact_match": 1.0,
    }  # fmt: skip
    lines = [sample, {**sample, "filter": "flexible-extract", "exact_match": 0.0}]
    (output / "samples_gsm8k_2026.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert take_results(output.parent, tmp_path)["n-samples"]["gsm8k"]["effective"] == 20
    ((key, question),) = read_questions(tmp_path).items()
    assert key == "0:d:p:t"
    assert question.answer == "It is 7."
    assert question.marks == {("exact_match", "strict-match"): 1.0, ("exact_match", "flexible-extract"): 0.0}


class Answer:
    def __init__(self, status: int, body: object) -> None:
        self.status_code, self._body, self.text = status, body, json.dumps(body)

    def json(self) -> object:
        return self._body


class Client:
    def __init__(self, answer: Answer) -> None:
        self.answer, self.bodies = answer, []

    def post(self, path: str, json: dict[str, object], timeout: float) -> Answer:
        self.bodies.append((path, json))
        return self.answer


def test_prompts_are_asked_one_after_another_at_temperature_0() -> None:
    client = Client(
        Answer(200, {"choices": [{"text": " Seine", "finish_reason": "length"}], "usage": {"completion_tokens": 2}})
    )
    answers = ask(client, "model", ["A river:", "Another:"], 2, 60.0, lambda _: None)
    assert [each["text"] for each in answers] == [" Seine", " Seine"]
    assert answers[0]["completion_tokens"] == 2
    assert [body["prompt"] for _, body in client.bodies] == ["A river:", "Another:"]
    assert all(path == "/v1/completions" and body["temperature"] == 0 for path, body in client.bodies)


@pytest.mark.parametrize("answer", [Answer(400, {"error": "no"}), Answer(200, {"choices": []}), Answer(200, ["?"])])
def test_a_prompt_without_an_answer_is_an_error(answer: Answer) -> None:
    with pytest.raises(NoAnswerError, match="prompt 1"):
        ask(Client(answer), "model", ["A river:"], 2, 60.0, lambda _: None)
