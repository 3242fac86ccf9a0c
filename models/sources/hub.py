"""Downloading a model from the Hugging Face hub: only the files that edgec reads."""

from __future__ import annotations

import errno
import glob
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgec.errors import EdgecError, InputError, ModelError
from edgec.models.weights.source import INDEX_SUFFIX, Progress, first_few, shard_names, weights_file
from edgec.tokenizer_files import TOKENIZER_FILES

__all__ = ["TEMPLATES", "Snapshot", "download"]

TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates beside the usual one, by name."""

PICKLES = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Snapshot:
    """A folder of the hub's cache, and the commit that it holds."""

    folder: Path
    commit: str


def download(
    repo: str,
    check: Callable[[Path], None],
    *,
    revision: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
    cache_dir: Path | None = None,
) -> Snapshot:
    """Brings a model's configuration, tokenizer and safetensors files into the hub's cache.

    The configuration comes first and `check` sees it before any weights are fetched, so that a
    model that edgec refuses costs no gigabytes. Files that are cached are not fetched again.

    Args:
        repo: `org/name`.
        check: Called with a folder that has all but the weights; raises to refuse the model.
        revision: Branch, tag or commit; the main branch if None.
        offline: Use the cache alone.
        trust_remote_code: Fetch the model's own `.py` files too.
        token: For gated and private models; `HF_TOKEN` or the saved login if None.
        progress: Told about the bytes fetched.
        cache_dir: Instead of the hub's usual cache.

    Raises:
        ModelError: the model or revision does not exist, may not be read, has no safetensors,
            or is not cached when offline.
        InputError: `repo` cannot be a model's name.
        EdgecError: the hub cannot be reached or the disk is full.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    # Read here, not by huggingface_hub, which reads it only once, when it is imported.
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    offline = offline or constants.HF_HUB_OFFLINE

    def fetch(patterns: list[str]) -> Path:
        folder = snapshot_download(
            repo,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            endpoint=endpoint,
            local_files_only=offline,
            allow_patterns=patterns,
            tqdm_class=_progress_bar(progress),
        )
        return Path(folder)

    with _explained(repo, revision, endpoint, offline):
        if offline:
            cached = fetch(["config.json"])
            names = [str(p.relative_to(cached)) for p in cached.rglob("*") if p.is_file()]
        else:
            info = HfApi(endpoint=endpoint, token=token).model_info(repo, revision=revision)
            names = [entry.rfilename for entry in info.siblings or []]
        wanted = _escaped(_small_files(names, trust_remote_code))
        folder = fetch(wanted)
        check(folder)
        weights = _weights_file(repo, names, folder, offline)
        files = [weights]
        if weights.endswith(INDEX_SUFFIX):
            files = shard_names(fetch([*wanted, *_escaped(files)]) / weights)
            _check_there(repo, weights, [f for f in files if f not in names], offline)
            files.append(weights)
        folder = fetch([*wanted, *_escaped(files)])
    return Snapshot(folder, folder.name)


def _small_files(names: list[str], trust_remote_code: bool) -> list[str]:
    wanted = {"config.json", *TOKENIZER_FILES}
    code = (n for n in names if trust_remote_code and n.endswith(".py"))
    return [n for n in names if n in wanted or fnmatchcase(n, TEMPLATES)] + list(code)


def _weights_file(repo: str, names: list[str], folder: Path, offline: bool) -> str:
    """The file or index of weights that transformers loads; copies in other layouts are left."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = weights_file(lambda name: name in names, config.get("transformers_weights"))
    if found is not None:
        return found
    if offline:
        raise ModelError(f"model {repo}: its weights are not cached", "run once without --offline")
    if any(n.endswith(PICKLES) for n in names):
        raise ModelError(
            f"model {repo}: its weights are pickles, which can run code and are never loaded",
            "look for a revision or a copy with safetensors files",
        )
    raise ModelError(f"model {repo}: no safetensors files", "give a model with its weights")


def _check_there(repo: str, index: str, missing: list[str], offline: bool) -> None:
    if missing and offline:
        raise ModelError(f"model {repo}: its weights are not cached", "run once without --offline")
    if missing:
        raise ModelError(
            f"model {repo}: {index} names files that are not there: {first_few(missing, 3)}",
            "look for a revision or a copy that is whole",
        )


def _escaped(names: list[str]) -> list[str]:
    """Names as patterns that match nothing else."""
    return [glob.escape(name) for name in names]


@contextmanager
def _explained(repo: str, revision: str | None, endpoint: str, offline: bool) -> Iterator[None]:
    """Turns the hub's errors into ones that say what to do."""
    from huggingface_hub import errors

    where = f"model {repo}" + (f" at revision {revision}" if revision else "")
    try:
        yield
    except EdgecError:
        raise
    except errors.HFValidationError:
        raise InputError(f"model {repo}: not a name on the hub", "write it as org/name") from None
    except errors.GatedRepoError:
        raise ModelError(
            f"model {repo}: gated, its authors ask you to accept their conditions",
            f"accept them at {endpoint}/{repo}, then set HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"model {repo}: no revision {revision or 'main'}", f"see {endpoint}/{repo}/tree/main"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"model {repo}: not found on {endpoint}",
            "check the spelling; for a private model set HF_TOKEN",
        ) from None
    except errors.LocalEntryNotFoundError as error:
        if offline:
            raise ModelError(
                f"{where}: not in the local cache, or not whole", "run once without --offline"
            ) from None
        raise _unreachable(where, endpoint, error) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ModelError(
                f"model {repo}: {endpoint} refuses access ({status})",
                "set HF_TOKEN to a token that may read it",
            ) from None
        raise EdgecError(f"{where}: {endpoint} answered {status}", "try again later") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise EdgecError(
                f"{where}: no space left for the download", "free some, or set HF_HOME"
            ) from None
        raise _unreachable(where, endpoint, error) from None
    except Exception as error:
        # huggingface_hub's HTTP client changed its name between versions; its errors have none
        # of our bases.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore"):
            raise _unreachable(where, endpoint, error) from None
        raise


def _unreachable(where: str, endpoint: str, error: Exception) -> EdgecError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EdgecError(
        f"{where}: cannot download from {endpoint}: {reason}",
        "check the network; --offline uses what is cached",
    )


def _progress_bar(progress: Progress | None) -> Any:
    """A class in the manner of tqdm that draws nothing and passes the bytes on to `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The hub shows bytes received and bytes written; the latter count cached parts too.
            self._reports = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.n = 0

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if self._reports and progress is not None:
                progress("download", self.n, int(self.total or 0))

    return Bar
