"""The Hugging Face Hub: a repository's files to this machine, and a directory up to a repository.

Everything goes through the huggingface_hub client, so that its cache, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and a login
on this machine hold here as they do elsewhere.
"""

import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from gptlab.checkpoint.hugging_face import CONFIG, FILES, INDEX, MERGES, TOKENIZER, VOCABULARY, WEIGHTS, why_no_weights
from gptlab.checkpoint.progress import leaving_at_once, progress_bar
from gptlab.errors import UserError
from gptlab.network import is_reachable

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

OPENAIS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""Short names of openai-community/..."""

TIMEOUT = 5.0
"""Seconds in which the Hub, once reached, must answer."""


def is_repository(source: object) -> TypeGuard[str]:
    """Whether a text can be a repository's name: `gpt2`, `user/model`, `user/model@revision`."""
    word = r"\w[\w.-]*"
    return isinstance(source, str) and re.fullmatch(rf"{word}(/{word})?(@[\w./-]+)?", source, re.ASCII) is not None


def repository_of(name: str) -> str:
    """The full name of a repository, without its revision.

    >>> repository_of("gpt2@main")
    'openai-community/gpt2'
    """
    repository = name.partition("@")[0]
    return f"openai-community/{repository}" if repository in OPENAIS else repository


def download(name: str) -> Path:
    """The directory in the Hub's cache that holds a repository's files; what is not there yet is fetched.

    Args:
        name: `[owner/]repository[@revision]`.

    Raises:
        UserError: where repository or revision do not exist or are not this user's to read; where the Hub cannot be
            reached and the cache lacks them; where the download breaks off.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision = repository_of(name), name.partition("@")[2] or constants.DEFAULT_REVISION
    if constants.HF_HUB_OFFLINE:
        return _from_cache(repository, revision, name, because="HF_HUB_OFFLINE is set")
    if not is_reachable(constants.ENDPOINT):
        endpoint = constants.ENDPOINT or "an empty HF_ENDPOINT"
        return _from_cache(repository, revision, name, because=f"{endpoint} cannot be reached")
    at = f"{constants.ENDPOINT}/{repository}"
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT, files_metadata=True)
    except GatedRepoError:
        raise UserError(_gated(name, at)) from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: {at} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{name} is no file or directory here, and {at} does not exist, or is private and needs `hf auth login`"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{name} is no file or directory here, and no repository's name: {error}") from None
    except (HTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        return _from_cache(repository, revision, name, because=f"{at} answered {_first_line(error)}")
    except (AttributeError, KeyError, TypeError):
        return _from_cache(repository, revision, name, because=f"{at} answered what no Hub does")
    return _fetch(repository, revision, info, name, at)


def _fetch(repository: str, revision: str, info: "ModelInfo", name: str, at: str) -> Path:
    """Download what the cache lacks of a repository that is known to be there."""
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HTTPError
    from huggingface_hub.utils import logging as client_logging

    sizes = {
        sibling.rfilename: (sibling.lfs.size if sibling.lfs is not None else sibling.size) or 0
        for sibling in info.siblings or ()
        if any(fnmatch(sibling.rfilename, pattern) for pattern in FILES)
    }
    _check_files({sibling.rfilename for sibling in info.siblings or ()}, name, at)
    progress = progress_bar()
    said = client_logging.get_verbosity()
    client_logging.set_verbosity_error()  # it goes on by itself where a connection is lost, and would tell each time
    try:
        missing = [
            file for file in sizes if not isinstance(try_to_load_from_cache(repository, file, revision=info.sha), str)
        ]
        if missing:
            n_megabytes = sum(sizes[file] for file in missing) / 1e6
            print(f"downloading {repository}, {n_megabytes:,.1f} MB", file=sys.stderr, flush=True)
        with leaving_at_once(progress):
            path = snapshot_download(repository, revision=revision, allow_patterns=list(FILES), tqdm_class=progress)
    except GatedRepoError:  # the Hub lists the files of such a repository to everyone
        raise UserError(_gated(name, at)) from None
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and not isinstance(error, HTTPError) and error.errno is not None:
            cache = constants.HF_HUB_CACHE
            raise UserError(
                f"{name}: the Hub's cache {cache} cannot be used ({error.strerror}): set HF_HOME to another directory"
            ) from None
        raise UserError(
            f"{name}: the download from {at} broke off ({_first_line(error)}): run it again, whole files are kept"
        ) from None
    finally:
        client_logging.set_verbosity(said)
        progress.finish()
    _check_sizes(Path(path), sizes, name, at)
    return Path(path)


def _check_sizes(directory: Path, sizes: dict[str, int], name: str, at: str) -> None:
    """Raises UserError where a cached file is not as long as the Hub says, and takes it out of the cache."""
    for file, n_bytes in sizes.items():
        path = directory / file
        if n_bytes and path.is_file() and path.stat().st_size != n_bytes:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise UserError(f"{name}: {file} from {at} was damaged on its way, and is thrown away: run it again")


def _check_files(files: set[str], name: str, at: str) -> None:
    """Raises UserError where there is no model to read, before anything is fetched."""
    if CONFIG not in files:
        raise UserError(f"{name}: {at} has no {CONFIG}, so it is no model in Hugging Face's format")
    if not files & {WEIGHTS, INDEX}:
        raise UserError(f"{name}: {at} {why_no_weights(files)}")


def _from_cache(repository: str, revision: str, name: str, *, because: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=list(FILES), local_files_only=True)
    except (OSError, ValueError):
        raise UserError(
            f"{name} is no file or directory here and not in the Hub's cache ({repository}, revision {revision}), "
            f"and {because}; fetch it where there is a network (hf download {repository}) and name the directory"
        ) from None
    missing = _missing(Path(found), repository, revision)
    if missing:
        raise UserError(f"{name}: the Hub's cache holds only a part of it (no {missing}), and {because}")
    return Path(found)


def _missing(directory: Path, repository: str, revision: str) -> str | None:
    """A file that a cached snapshot lacks: whoever filled the cache may not have wanted all that a model is."""
    names = {path.name for path in directory.iterdir()}
    if CONFIG not in names:
        return CONFIG
    if not names & {WEIGHTS, INDEX}:
        return WEIGHTS
    if TOKENIZER in names or {VOCABULARY, MERGES} <= names or repository in map(repository_of, OPENAIS):
        return None
    try:  # is there none, or was it never fetched? Newer clients keep the list of files that they have fetched whole
        from huggingface_hub import get_cached_repo_tree

        get_cached_repo_tree(repository, revision=revision)
    except Exception:
        return TOKENIZER
    return None


def _gated(name: str, at: str) -> str:
    return f"{name}: {at} asks its users to agree to terms first; do so there, then `hf auth login`"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_can_push(repository: str) -> None:
    """What can be known before anything is written. Raises UserError where an upload cannot succeed."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"push_to={repository} is no repository's name: {_first_line(error)}") from None
    if not is_repository(repository) or repository.count("/") != 1 or "@" in repository:
        raise UserError(f"push_to={repository} is no repository's name: write user/name")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"push_to={repository} needs the Hub, and HF_HUB_OFFLINE is set")
    if get_token() is None:
        raise UserError(f"push_to={repository} needs a login: `hf auth login`, with a token that may write")
    if not is_reachable(constants.ENDPOINT):
        raise UserError(f"push_to={repository}: {constants.ENDPOINT} cannot be reached")


def push(directory: Path, repository: str) -> str:
    """Upload a directory, into a repository that is made where there is none; returns its address.

    Raises:
        UserError: with what the Hub said.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=directory, commit_message="Upload from gptlab")
    except (HTTPError, OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"push_to={repository}: the Hub refused ({_first_line(error)})") from None
    return str(address)
