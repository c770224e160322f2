import json

import pytest

from tempa.align.records import load_chats, load_pairs, load_tasks

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


def write(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_chats_come_as_messages_or_instructions(tmp_path):
    """Ch4 S3."""
    path = write(
        tmp_path / "chats.jsonl",
        {"messages": [USER, ANSWER]},
        {"instruction": "Double it.", "input": "4", "output": "8"},
        {"instruction": "hi", "input": "", "output": "hello"},
    )
    chats = load_chats(path)
    assert chats[0].messages == (USER, ANSWER)
    assert chats[1].messages[0]["content"] == "Double it.\n\n4"
    assert chats[0] == chats[2]


def test_a_json_array_reads_like_json_lines(tmp_path):
    records = [{"prompt": "1+1", "answer": 2}, {"question": "2-2", "answer": "so\n#### 0"}]
    lines = write(tmp_path / "tasks.jsonl", *records)
    (tmp_path / "tasks.json").write_text(json.dumps(records, indent=2))
    tasks = load_tasks(lines)
    assert tasks == load_tasks(tmp_path / "tasks.json")
    assert [task.answer for task in tasks] == ["2", "0"]


def test_trap_l14_an_answer_of_zero_is_an_answer(tmp_path):
    assert load_tasks(write(tmp_path / "t.jsonl", {"prompt": "1-1", "answer": 0}))[0].answer == "0"


def test_pairs_take_a_prompt_in_any_form(tmp_path):
    answers = {"chosen": "a", "rejected": "b"}
    path = write(
        tmp_path / "pairs.jsonl",
        {"prompt": "hi", **answers},
        {"messages": [USER], **answers},
        {"instruction": "hi", "input": "", "output": "unused", **answers},
    )
    first, *others = load_pairs(path)
    assert others == [first, first]


def test_a_pair_of_equal_answers_is_left_out(tmp_path):
    records = [{"prompt": "hi", "chosen": "a", "rejected": answer} for answer in "ab"]
    assert [pair.rejected for pair in load_pairs(write(tmp_path / "pairs.jsonl", *records))] == ["b"]


def test_real_records_load(shared_data):
    assert len(load_chats(shared_data / "instruction-data.json")) == 1100
    assert len(load_pairs(shared_data / "instruction-preference.json")) == 1094
    assert len(load_tasks(shared_data / "gsm8k-test.jsonl")) == 1319


@pytest.mark.parametrize(
    ("load", "record", "message"),
    [
        (load_chats, [], "expected an object, found an empty array"),
        (load_chats, {}, '"messages": missing, and there is no "instruction"'),
        (load_chats, {"messages": []}, '"messages": expected turns, found an empty array'),
        (load_chats, {"messages": [USER]}, "no assistant turn"),
        (
            load_chats,
            {"messages": [{"role": "bot", "content": ""}]},
            r'"messages\[0\].role": .* found \'bot\'',
        ),
        (load_chats, {"messages": [{"role": "user"}]}, r'"messages\[0\].content": expected text, found null'),
        (load_chats, {"instruction": "a", "output": 3}, '"output": expected text, found a number'),
        (
            load_chats,
            {"instruction": "a", "input": 3, "output": "b"},
            '"input": expected text, found a number',
        ),
        (load_pairs, {"prompt": "a", "chosen": "b"}, '"rejected": missing'),
        (load_pairs, {"chosen": "b", "rejected": "c"}, '"prompt": missing'),
        (load_pairs, {"messages": [USER, ANSWER], "chosen": "b", "rejected": "c"}, "must end with the user"),
        (load_tasks, {"prompt": "a"}, '"answer": missing'),
        (load_tasks, {"prompt": " ", "answer": "1"}, '"prompt": empty'),
        (load_tasks, {"prompt": "a", "answer": True}, '"answer": expected text, found a truth value'),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_an_error_names_file_line_and_field(tmp_path, load, record, message, suffix):
    good = {"messages": [USER, ANSWER], "instruction": "a", "output": "b", "answer": "1"}
    if load is not load_chats:
        good = {"prompt": "a", "answer": "1", "chosen": "b", "rejected": "c"}
    path = tmp_path / f"records{suffix}"
    lines = [json.dumps(good), "", json.dumps(record)]
    path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{lines[0]},\n\n{lines[2]}]")
    with pytest.raises(ValueError, match=rf"records{suffix}:3: .*{message}"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", r"a.jsonl:1: not JSON"),
        ("a.jsonl", b"\n\n", "no records"),
        ("a.json", b"[]", "no records"),
        ("a.json", b"{}", r"a.json:1: expected '\[' of an array"),
        ("a.json", b'[{"instruction": "a", "output": "b"}', "a.json:1: expected ','"),
        ("a.json", b"[\n{", "a.json:2: not JSON"),
        ("a.jsonl", b"\xff", "not UTF-8 at byte 0"),
        ("a.txt", b"hello", "from .jsonl and .json"),
    ],
)
def test_files_that_are_not_records_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_chats(tmp_path / name)
