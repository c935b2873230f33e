"""Calls of the Hub: which failures are waited for and tried again, and what the others mean, in one line each."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import parse_ratelimit_headers

Result = TypeVar("Result")
Cause = HfHubHTTPError | httpx2.TransportError
ATTEMPTS = 3
PATIENCE = 900  # seconds that the Hub may ask to wait, in all; it counts requests in windows of 300
TRANSIENT = (408, 412, 429, 500, 502, 503, 504)  # 412: someone else has pushed in the meantime
# What the client raises where the answer is not the JSON, or not the headers, of a Hub. That may pass: the client looks
# for JSON before it looks at the status, so that a busy server's page for a browser ends here, too.
_OF_NO_HUB = (json.JSONDecodeError, KeyError, TypeError, FileMetadataError)


class HubError(Exception):  # no RuntimeError: those of one process of several are taken for lost connections
    """The Hub refused or failed. The message is one line that tells the user what to do."""


def with_retries(attempt: Callable[[], Result], repo_id: str) -> Result:
    """The result of `attempt`, which is repeated if the connection or the Hub fails temporarily.

    A Hub that says when to come again (429, and Retry-After at any failure) is asked again then, and that is no failed
    attempt. huggingface_hub itself does so at most requests, but not where it creates, reads the head, or commits.
    Repeating is safe: if an attempt succeeded but its answer was lost, the next one finds nothing left to change.

    Raises:
        HubError: it failed for good.
    """
    failed, waited = 0, 0.0
    while True:
        try:
            return attempt()
        except HubError:
            raise
        except OfflineModeIsEnabled as error:
            raise HubError("HF_HUB_OFFLINE is set, so that nothing can be pushed: unset it") from error
        except (OSError, httpx2.TransportError, RuntimeError, *_OF_NO_HUB) as error:  # the Hub's errors are OSErrors
            cause = _hub_error(error)
            if cause is None:
                raise
            asked = _seconds_asked(cause)
            if asked is not None and waited + asked <= PATIENCE:
                logging.warning("the Hub asks to wait %.0f s (%s); waiting", asked, _summary_of(cause))
                time.sleep(asked)
                waited += asked
                continue
            failed += 1
            if not _is_transient(cause) or asked is not None or failed == ATTEMPTS:
                raise HubError(_advice(cause, repo_id, asked)) from error
            if isinstance(cause, Cause):
                logging.warning("the Hub failed (%s); trying again", _summary_of(cause))
            time.sleep(2**failed)


def _hub_error(error: BaseException) -> Exception | None:
    """The error of the Hub or of the connection among the causes of `error`, or else that of an answer that no Hub
    gives; None if there is neither."""
    causes = list(_causes(error))
    return next((each for kind in (Cause, _OF_NO_HUB) for each in causes if isinstance(each, kind)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _is_transient(cause: Exception) -> bool:
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in TRANSIENT
    return not isinstance(cause, httpx2.UnsupportedProtocol)


def _seconds_asked(cause: Exception) -> float | None:
    """How long the Hub asks to wait before the next request, at least a second; None where it does not say."""
    if not (isinstance(cause, HfHubHTTPError) and _is_transient(cause)):
        return None
    headers = cause.response.headers
    after, limit = headers.get("Retry-After", "").strip(), parse_ratelimit_headers(headers)
    if after.isdecimal():
        return max(float(after), 1.0)
    if after:
        return _seconds_until(after)
    if cause.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    return None


def _seconds_until(date: str) -> float | None:
    """Seconds until a date as HTTP writes it; None if it is none."""
    try:
        until = parsedate_to_datetime(date)
    except ValueError:
        return None
    return max((until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 1.0)


def _advice(cause: Exception, repo_id: str, asked: float | None) -> str:
    if isinstance(cause, httpx2.ConnectError):
        return f"no Hub at {constants.ENDPOINT}: check the connection, and HF_ENDPOINT"
    if isinstance(cause, _OF_NO_HUB):
        return _no_hub("what it answers is no answer of a Hub")
    if asked is not None:
        return (
            f"the Hub takes no more requests for {asked:.0f} s ({_summary_of(cause)}): {repo_id} is unchanged; run the "
            "command again then"
        )
    if _is_transient(cause):
        return (
            f"the Hub failed {ATTEMPTS} times ({_summary_of(cause)}): {repo_id} is unchanged, or holds all of the new "
            "files if only the last answer was lost. Nothing changed here; run the command again"
        )
    response = cause.response if isinstance(cause, HfHubHTTPError) else None
    if response is not None and (response.status_code == 511 or "html" in response.headers.get("Content-Type", "")):
        return _no_hub(f"it answers {response.status_code} with a page for a browser")
    status = None if response is None else response.status_code
    if status == 401:
        return "the Hub refused the token: log in again with `hf auth login`, or check HF_TOKEN and --hub_token"
    if status in (403, 404):
        return f"the token gives no right to write to {repo_id}: use a token of its owner that may write"
    return f"the Hub refused {repo_id}: {_summary_of(cause)}"


def _no_hub(seen: str) -> str:
    return (
        f"no Hub at {constants.ENDPOINT}: {seen}. A login page of the network or a proxy may stand in between: open a "
        "page in a browser and log in, or check HF_ENDPOINT; then run the command again"
    )


def _summary_of(cause: Exception) -> str:
    """One line."""
    if isinstance(cause, HfHubHTTPError):
        return " ".join(f"{cause.response.status_code} {cause.server_message or ''}".split())
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
