"""Sends what `publish` made to the Hugging Face hub, one commit a repository. In: repositories. Out: their addresses.

The token is the one that `hf auth login` has kept, or HF_TOKEN. It goes into no file and no message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xlmr_sweep.commands.publish_repository import Repository, is_left_over
from xlmr_sweep.errors import StudyError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
"""ORG/NAME; the hub allows 96 characters for a name, and a model's short name is added to it."""

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


def upload(repositories: Sequence[Repository], *, public: bool) -> list[str]:
    """Makes the repositories where they are missing and sends their files. Nothing is sent before all of them have been checked.

    Args:
        repositories: what goes up; their names are ORG/NAME.
        public: whether they may be seen by everyone.

    Returns:
        Their addresses.

    Raises:
        StudyError: without a token, for a repository that is public although `public` is not given, and for what the hub refuses.
    """
    from huggingface_hub import HfApi

    # Read now, because the hub's client reads it once when it is imported.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _plain_errors("the hub"):
        api.whoami()
    there = [_look_at(api, repository, public) for repository in repositories]
    return [_send(api, repository, files, public) for repository, files in zip(repositories, there, strict=True)]


def _look_at(api: HfApi, repository: Repository, public: bool) -> list[str] | None:
    """Returns the files that a repository has, or None if there is none of that name."""
    with _plain_errors(repository.name):
        if not api.repo_exists(repository.name, repo_type=repository.kind):
            return None
        info: Any = api.repo_info(repository.name, repo_type=repository.kind)
    if not info.private and not public:
        raise StudyError(f"--to: {repository.name} is there and public; give --public, or another name")
    return [sibling.rfilename for sibling in info.siblings or ()]


def _send(api: HfApi, repository: Repository, there: Sequence[str] | None, public: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationDelete(name) for name in there or () if is_left_over(repository, name)]
    operations += [CommitOperationAdd(name, content) for name, content in repository.files.items()]
    with _plain_errors(repository.name):
        if there is None:
            api.create_repo(repository.name, repo_type=repository.kind, private=not public)
        done = api.create_commit(
            repository.name, operations, commit_message=repository.title, repo_type=repository.kind, num_threads=2
        )
    return str(done.repo_url)


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Turns what the hub's client raises into one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError:
        raise StudyError(f"--to hub: there is no token; {LOGIN}") from None
    except OfflineModeIsEnabled:
        raise StudyError("--to hub: HF_HUB_OFFLINE is set, so nothing can be sent") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise StudyError(f"--to hub: {what} refuses the token (status {status}); {LOGIN} with the right to write") from None
        raise StudyError(f"--to hub: {what}: {_first_line(error)}") from None
    except Exception as error:
        # Its client raises dozens of unrelated classes. All of them mean that nothing was sent.
        raise StudyError(f"--to hub: {what}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
