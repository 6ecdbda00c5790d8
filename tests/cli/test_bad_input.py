"""Bad input: one clear line, a failing exit status, no OUT, and no weights read for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from command import Command
from tiny import save_tiny

_PRUNE = ("prune", "MODEL", "-c", "SPEC", "-o", "OUT")
_APPLY = ("apply", "MODEL", "-o", "OUT", "--remove")


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture
def refused(
    depthprune: Command, tiny_llama: Path, spec: str, tmp_path: Path, no_weights: None
) -> Callable[..., str]:
    """Runs a command that must be refused, leaving its folder as it was; gives the error."""

    def refused(*words: object, status: int, model: Path = tiny_llama) -> str:
        places = {"MODEL": model, "SPEC": spec, "OUT": tmp_path / "out", "TMP": tmp_path}
        before = _listing(tmp_path)
        outcome = depthprune(*(places.get(word, word) for word in words))  # type: ignore[call-overload]
        assert _listing(tmp_path) == before
        assert outcome.status == status, outcome
        return outcome.error

    return refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-k", "0"), "-k: expected 1 to 5 (the model has 6 blocks and must keep one), got 0"),
        (("-k", "-1"), "-k: expected 1 to 5 (the model has 6 blocks and must keep one), got -1"),
        (("-k", "6"), "-k: expected 1 to 5 (the model has 6 blocks and must keep one), got 6"),
        (("-k", "99"), "got 99"),
        (("-k", "two"), "Invalid value for '-k'"),
        ((), "-k: expected either -k K or --max-increase SHARE, one of them"),
        (("-k", "2", "--max-increase", "5%"), "expected either -k K or --max-increase SHARE"),
        (("-k", "2", "--delta", "1"), "--delta: expected a chance between 0 and 1, got 1"),
        (("-k", "2", "--tolerance", "0.1"), "--tolerance: expected a percentage such as 5%"),
        (("-k", "2", "--exact", "--delta", "0.01"), "--delta: means nothing with --exact, which"),
        (("-k", "2", "--tolerance", "1%", "--exact"), "--tolerance: means nothing with --exact"),
        (
            ("-k", "2", "--recover", "linear", "--search-with-recovery", "--delta", "0.1"),
            "--delta: means nothing with --search-with-recovery, which never races; drop it",
        ),
        (("-k", "2", "--objective", "kl:up=1"), "objective kl: unknown parameter 'up=1'"),
        (("-k", "2", "--objective", "option-ce"), "the calibration has none; take a choices:"),
        (("--max-increase", "5"), "--max-increase: expected a percentage such as 5%, got '5'"),
        (("-k", "2", "--protect", "6"), "--protect: expected blocks from 0 to 5, got 6"),
        (("-k", "2", "--protect", "1,1"), "--protect: block 1 is named twice"),
        (("-k", "2", "--protect", "one"), "--protect 'one': expected block numbers"),
        (("-k", "3", "--protect", "0-3"), "--protect: leaves 2 of 6 blocks that may go, fewer"),
        (("-k", "2", "--search", "gredy"), "unknown search 'gredy'; did you mean 'greedy'?"),
        (("-k", "2", "--objective", "nil"), "unknown objective 'nil'; did you mean 'nll'?"),
        (("-k", "2", "--seed", "-1"), "Invalid value for '--seed'"),
        (("-k", "2", "--memory", "lots"), "--memory: expected a size such as 4GB or 512MiB"),
        (("-k", "2", "--dtype", "int3"), "--dtype: expected auto, float32, bfloat16, float16"),
        (("-k", "2", "--device", "abacus"), "--device: expected auto, cpu, cuda, cuda:N or mps"),
        (("-k", "2", "--sarch", "greedy"), "No such option: --sarch"),
        (("-k", "2", "-c", "txt:a"), "unknown calibration source 'txt'; did you mean 'text'?"),
        (("-k", "2", "-c", "text:a,windws=2"), "unknown key 'windws'; did you mean 'windows'?"),
        (("-k", "2", "-o", "TMP/model.gguf"), "a GGUF is written from a GGUF, and"),
    ],
)
def test_prune_refuses_wrong_arguments(
    words: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused(*_PRUNE, *words, status=2)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("6", "--remove: block 6 is out of range; the model has 6 blocks, 0 to 5"),
        ("2,2", "--remove: block 2 is named twice; name each block once"),
        ("1-3,2", "--remove: block 2 is named twice"),
        ("0-5", "--remove: all 6 blocks would go; leave at least one"),
        ("", "--remove: expected block numbers such as 4,12-14, got nothing"),
        ("3-1", "the range 3-1 runs backwards; write 1-3"),
        ("all", "--remove 'all': expected block numbers such as 4,12-14, got 'all'"),
    ],
)
def test_apply_refuses_a_wrong_set(remove: str, message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*_APPLY, remove, status=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo", "demo: expected a checkpoint folder, found nothing; check the path (hub ids and"),
        (__file__, "expected a checkpoint folder, found a file; give the folder that holds it"),
    ],
)
def test_apply_says_what_to_name_in_place_of_what_is_no_folder(
    name: str, message: str, depthprune: Command
) -> None:
    assert message in depthprune("apply", name, "--remove", "1", "-o", "out").error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "MODEL", "--remove", "6"), "--remove: block 6 is out of range"),
        (("evaluate", "MODEL", "--remove", "0-5"), "--remove: all 6 blocks would go"),
        (("evaluate", "MODEL", "-c", "SPEC", "--objective", "x"), "unknown objective 'x'"),
        (("evaluate", "MODEL", "-c", "text:a,order=up"), "order= expects random or first"),
        (("score", "MODEL", "-o", "TMP/fig.pdf"), "expected a file ending in .svg or .png"),
        (("score", "MODEL", "--memory", "0"), "--memory: expected a size"),
        (("bench", "MODEL", "--repeats", "0"), "Invalid value for '--repeats'"),
        (
            ("calibrations", "draw"),
            "calibrations: expected nothing, show SPEC or portfolio, got 'draw'",
        ),
        (
            ("calibrations", "show"),
            "calibrations: expected nothing, show SPEC or portfolio, got 'show'",
        ),
        (("calibrations", "show", "choices:a,shots=1"), "shots= means nothing with format=raw"),
        (("calibrations", "show", "x", "--schema"), "calibrations: --schema takes no other words"),
        (("report", "none.gguf"), "none.gguf: no such folder or file; check the path"),
        (("report", "TMP"), "or depthprune.json (a pruned checkpoint); check the path"),
        (("prunes",), "No such command 'prunes'"),
        (("help",), "No such command 'help'; see depthprune --help"),
        (("prune",), "Missing argument 'MODEL'; see depthprune prune --help"),
        (("apply", "MODEL", "-k", "3"), "No such option: -k; see depthprune apply --help"),
        ((), "Missing command; see depthprune --help"),
    ],
)
def test_the_other_verbs_refuse_wrong_arguments(
    words: tuple[str, ...], message: str, refused: Callable[..., str]
) -> None:
    assert message in refused(*words, status=2)


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("text:{}/none.txt", b"", "none.txt: no such file; check the path"),
        ("text:{}", b"", "the folder holds no ."),
        ("text:{}/file", b"", "holds no text; give a source with text in it"),
        ("text:{}/file", b" \n ", "holds no text"),
        ("text:{}/file", b"caf\xe9", "not UTF-8 (byte 3 is 0xe9); convert it"),
        ("text:{}/file,length=8", b"Too short.", "lower windows= or length=, or give more text"),
        ("jsonl:{}/file,field=body", b'{"text": "a"}', "file:1: no field 'body' (it has: text)"),
        ("jsonl:{}/file", b"plain", "file:1: not JSON"),
        ("parquet:{}/file", b"plain", "file: not a Parquet file"),
        ("hub:depthprune/there-is-none", b"", "could not be reached or read"),
    ],
)
@pytest.mark.parametrize("verb", ["prune", "score", "evaluate"])
def test_text_that_cannot_be_read_is_refused(
    verb: str, spec: str, content: bytes, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    words = {"prune": ("-k", "2", "-o", "OUT")}.get(verb, ())
    assert message in refused(verb, "MODEL", "-c", spec.format(tmp_path), *words, status=1)


def _damaged(damage: Callable[[Path], object], source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    damage(folder)
    return folder


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _config(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")

    return change


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1000])


def _corrupt_header(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[8:10] = b"!!"
    (folder / "model.safetensors").write_bytes(data)


def _header(change: Callable[[dict[str, dict[str, list[int]]]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        change(header)
        raw = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(
            len(raw).to_bytes(8, "little") + raw + data[8 + length :]
        )

    return damage


def _overlap(header: dict[str, dict[str, list[int]]]) -> None:
    same = [entry for entry in header.values() if entry["shape"] == [32]]
    same[1]["data_offsets"] = same[0]["data_offsets"]


def _out_of_bounds(header: dict[str, dict[str, list[int]]]) -> None:
    last = max(header.values(), key=lambda entry: entry["data_offsets"])
    last["data_offsets"] = [offset + 4096 for offset in last["data_offsets"]]


def _sharded(folder: Path) -> dict[str, str]:
    """Split the weights in two shards; gives the index's map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    half = len(names) // 2
    found = {}
    for number, part in enumerate((names[:half], names[half:])):
        shard = f"part-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        found |= dict.fromkeys(part, shard)
    _index(folder, found)
    return found


def _index(folder: Path, weight_map: dict[str, str]) -> None:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _missing_shard(folder: Path) -> None:
    _sharded(folder)
    (folder / "part-1.safetensors").unlink()


def _index_leads_out(folder: Path) -> None:
    found = _sharded(folder)
    (folder / "part-1.safetensors").rename(folder.parent / "part-1.safetensors")
    _index(folder, {name: file.replace("part-1", "../part-1") for name, file in found.items()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_config, "no config.json; expected a checkpoint's config"),
        (_config(num_hidden_layers=None), "num_hidden_layers"),
        (_without_weights, "no weights; expected model.safetensors"),
        (_pickled_only, "the weights are pickled only (pytorch_model.bin)"),
        (_truncated, "truncated, or offsets out of bounds"),
        (_corrupt_header, "corrupt header: not JSON"),
        (_header(_overlap), "overlaps the tensor before it"),
        (_header(_out_of_bounds), "offsets out of bounds"),
        (_missing_shard, "the shard part-1.safetensors is missing; download it"),
        (_index_leads_out, "outside the folder; this checkpoint is not to be trusted"),
    ],
)
@pytest.mark.parametrize("verb", ["prune", "apply", "bench"])
def test_a_damaged_checkpoint_is_refused(
    verb: str,
    damage: Callable[[Path], object],
    message: str,
    refused: Callable[..., str],
    tiny_llama: Path,
    tmp_path: Path,
) -> None:
    model = _damaged(damage, tiny_llama, tmp_path / "model")
    words = {"prune": (*_PRUNE, "-k", "2"), "apply": (*_APPLY, "2"), "bench": ("bench", "MODEL")}
    assert message in refused(*words[verb], status=1, model=model)


@pytest.mark.parametrize("verb", ["prune", "score", "evaluate"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TMP/none", "no such folder or file; MODEL is a folder, a .gguf file, a hub id"),
        ("TMP/none.gguf", "no such folder or file"),
        ("TMP/river.txt", "expected a folder or a .gguf file; got another file"),
        ("TMP/bad.gguf", "not a GGUF language model, or damaged"),
        ("depthprune/there-is-none", "no such folder, and the hub gave nothing"),
    ],
)
def test_a_model_that_is_none_is_refused(
    verb: str, name: str, message: str, refused: Callable[..., str], spec: str, tmp_path: Path
) -> None:
    for file in ("river.txt", "bad.gguf"):
        (tmp_path / file).write_text("The river rises.", encoding="utf-8")
    out = {"prune": ("-k", "2", "-o", "OUT")}.get(verb, ())
    model = name.replace("TMP", str(tmp_path))
    assert message in refused(verb, model, "-c", spec, *out, status=1)


def test_a_model_with_code_of_its_own_is_refused(
    refused: Callable[..., str], tiny_llama: Path, tmp_path: Path
) -> None:
    damage = _config(auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    model = _damaged(damage, tiny_llama, tmp_path / "model")
    message = refused(*_PRUNE, "-k", "2", status=1, model=model)
    assert "which is not run; read it, then pass --trust-remote-code" in message


def test_a_model_without_a_tokenizer_is_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    model = save_tiny(tmp_path / "model", tokenizer=False)
    message = refused(*_PRUNE, "-k", "2", status=1, model=model)
    assert "no tokenizer could be read" in message


def test_a_checkpoint_whose_tensors_have_no_list_of_blocks_is_not_cut(
    refused: Callable[..., str], tiny_llama: Path, tmp_path: Path
) -> None:
    model = _damaged(_config(num_hidden_layers=7), tiny_llama, tmp_path / "model")
    message = refused(*_APPLY, "2", status=1, model=model)
    assert "no list of 7 blocks among the tensors" in message


def test_a_type_that_is_not_verified_is_not_cut_without_verify(
    refused: Callable[..., str], tiny_llama: Path, tmp_path: Path
) -> None:
    model = _damaged(_config(model_type="llamma"), tiny_llama, tmp_path / "model")
    message = refused(*_APPLY, "2", status=1, model=model)
    assert "model_type llamma: not on the list of verified architectures" in message


@pytest.mark.parametrize("words", [(*_PRUNE, "-k", "2"), (*_APPLY, "2")])
def test_an_output_that_exists_is_refused(
    words: tuple[str, ...], refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    assert "exists and is not empty; choose another" in refused(*words, status=1)
    assert "holds no depthprune.json" in refused(*words, "--overwrite", status=1)


@pytest.mark.parametrize("words", [(*_PRUNE, "-k", "2"), (*_APPLY, "2")])
def test_a_file_in_the_output_s_place_is_refused(
    words: tuple[str, ...], refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "out").touch()
    assert "expected a folder, found a file" in refused(*words, status=1)


@pytest.mark.parametrize(("words", "status"), [((*_PRUNE, "-k", "2"), 2), ((*_APPLY, "2"), 1)])
def test_a_model_is_not_written_over_itself(
    words: tuple[str, ...],
    status: int,
    refused: Callable[..., str],
    tiny_llama: Path,
    tmp_path: Path,
) -> None:
    model = shutil.copytree(tiny_llama, tmp_path / "out")
    (model / "depthprune.json").write_text('{"files": []}', encoding="utf-8")
    refusal = refused(*words, "--overwrite", status=status, model=model)
    assert "choose another" in refusal
    assert "own folder" in refusal or "checkpoint itself" in refusal


@pytest.mark.parametrize(
    ("name", "message"),
    [("fig.svg", "exists; choose another name"), ("no/fig.svg", "its folder does not exist")],
)
def test_a_figure_that_cannot_be_written_is_refused(
    name: str, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "fig.svg").write_text("mine", encoding="utf-8")
    assert message in refused("score", "MODEL", "-c", "SPEC", "-o", tmp_path / name, status=1)
