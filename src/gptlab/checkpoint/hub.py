"""Download from and upload to the Hugging Face Hub, through its client, with its cache, settings and login."""

import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeGuard

from gptlab.checkpoint.hugging_face import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, FILES, INDEX, WEIGHTS
from gptlab.errors import UserError

OPENAIS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # short names of openai-community/...
TIMEOUT = 5.0  # seconds for the Hub to take a connection, and to answer


def is_repository(source: object) -> TypeGuard[str]:
    """Whether a text can be a repository's name: `gpt2`, `user/model`, `user/model@revision`."""
    word = r"\w[\w.-]*"
    return isinstance(source, str) and re.fullmatch(rf"{word}(/{word})?(@[\w./-]+)?", source, re.ASCII) is not None


def repository_of(name: str) -> str:
    """The full name of a repository, without its revision: `gpt2@main` is openai-community/gpt2."""
    repository = name.partition("@")[0]
    return f"openai-community/{repository}" if repository in OPENAIS else repository


def download(name: str) -> Path:
    """The directory in the Hub's cache with the files of `[owner/]repository[@revision]`; downloads what it lacks.

    Raises UserError if the repository does not exist or may not be read, or the download fails and the cache lacks it.
    """
    from huggingface_hub import constants, errors

    repository, revision = repository_of(name), name.partition("@")[2] or constants.DEFAULT_REVISION
    address = f"{constants.ENDPOINT}/{repository}"
    try:
        return _fetch(repository, revision)
    except errors.GatedRepoError:
        reason = "agree to its terms there, then run `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"it has no revision {revision}"
    except errors.RepositoryNotFoundError:
        reason = "it does not exist, or is private and needs `hf auth login`"
    except (errors.HTTPError, OSError, ValueError) as error:
        if (cached := _cached(repository, revision)) is not None:
            return cached
        reason = str(error).partition("\n")[0]
    raise UserError(f"{name} is no file or directory here, and cannot be loaded from {address}: {reason}")


def _fetch(repository: str, revision: str) -> Path:
    """Download what the cache lacks, in this thread, so that Ctrl-C ends it; weights last: they mark a whole copy."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    names = [file.rfilename for file in info.siblings or ()]
    files = [name for name in names if any(fnmatch(name, pattern) for pattern in FILES)]
    named = CONFIG if CONFIG in files else ADAPTER_CONFIG
    if named not in files:
        raise ValueError(f"it has no {CONFIG}")
    for file in sorted(files, key=lambda file: file.endswith(".safetensors")):
        if not isinstance(try_to_load_from_cache(repository, file, revision=info.sha), str):
            print(f"downloading {file} of {repository}", file=sys.stderr, flush=True)
        commit = revision if file == named else info.sha  # once by its name: the cache then knows its commit
        path = hf_hub_download(repository, file, revision=commit, etag_timeout=TIMEOUT)
    return Path(path).parent


def _cached(repository: str, revision: str) -> Path | None:
    """A repository's directory in the cache; None if there is none with a model in it."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=[*FILES], local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(found) if any(Path(found, name).exists() for name in (WEIGHTS, INDEX, ADAPTER_WEIGHTS)) else None


def check_can_push(repository: str) -> None:
    """Raises UserError if it is not a repository's name, or nobody is logged in."""
    from huggingface_hub import get_token

    if not is_repository(repository) or repository.count("/") != 1 or "@" in repository:
        raise UserError(f"push_to={repository} is not a repository's name: write user/name")
    if get_token() is None:
        raise UserError(f"push_to={repository} needs a login: `hf auth login`, with a token that may write")


def push(directory: Path, repository: str) -> str:
    """Upload a directory to a repository, created if need be; returns its address. Raises UserError if refused."""
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=directory, commit_message="Upload from gptlab")
    except (errors.HTTPError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"push_to={repository}: {reason}; try again: hf upload {repository} {directory}") from None
    return str(address)
