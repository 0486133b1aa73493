"""What ~/.aws says, as AWS' own tools read it: the profile's region and endpoint, and its credentials.

The environment's keys come first. A profile without keys names a command that prints them; for any other kind (single
sign-on, a role) the AWS command line is asked, if it is installed.
"""

import configparser
import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_KEEP = timedelta(minutes=5)  # then the files are read again: people renew their keys while a sweep runs
_COMMAND_TIMEOUT_S = 60
_BY_THE_CLI = ("sso_session", "sso_start_url", "role_arn")


@dataclass(frozen=True)
class Profile:
    """The settings of one profile; empty if there is none."""

    name: str = "default"
    settings: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    @classmethod
    def chosen(cls) -> "Profile":
        """The profile that AWS_PROFILE names, or the default one, as it is stored now."""
        name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
        config = _section("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}")
        return cls(name, config | _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", name))

    @property
    def region(self) -> str | None:
        """Where its buckets are."""
        return self.settings.get("region")

    @property
    def endpoint(self) -> str | None:
        """Which server answers for S3, if it is not Amazon's."""
        return self.settings.get("endpoint_url")

    @property
    def has_credentials(self) -> bool:
        """True if the keys come from here, and not from the environment or the machine."""
        if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
            return False
        by_cli = any(key in self.settings for key in _BY_THE_CLI) and shutil.which("aws") is not None
        return "aws_access_key_id" in self.settings or "credential_process" in self.settings or by_cli

    def credentials(self) -> Any:
        """The keys as they are stored now, for obstore, which asks again when they expire. Raises OSError."""
        now = Profile.chosen()
        until = datetime.now(UTC) + _KEEP
        if "aws_access_key_id" in now.settings:
            return {
                "access_key_id": now.settings["aws_access_key_id"],
                "secret_access_key": now.settings.get("aws_secret_access_key", ""),
                "token": now.settings.get("aws_session_token"),
                "expires_at": until,
            }
        command = now.settings.get("credential_process")
        by_cli = ["aws", "configure", "export-credentials", "--format", "process", "--profile", now.name]
        printed = _printed(shlex.split(command) if command else by_cli)
        expires = printed.get("Expiration")
        return {
            "access_key_id": printed["AccessKeyId"],
            "secret_access_key": printed["SecretAccessKey"],
            "token": printed.get("SessionToken"),
            "expires_at": datetime.fromisoformat(expires) if expires else until,
        }


def _printed(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise OSError(f"{shlex.join(command)} gave no credentials: {done.stderr.strip()[-200:]}")
    return json.loads(done.stdout)


def _section(variable: str, file: str, section: str) -> dict[str, str]:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / file).expanduser()
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise OSError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from None
    return dict(parser[section]) if parser.has_section(section) else {}
