"""Second factors: allauth's forms with what they leave out, and what an admin or an operator does to them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allauth.account.adapter import get_adapter
from allauth.account.forms import ChangePasswordForm as ChangePassword
from allauth.core import context
from allauth.mfa import app_settings
from allauth.mfa.base import forms as codes
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn import forms as passkeys
from django import forms
from django.core.exceptions import ValidationError
from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity import attempts, on_record
from jitaccess.identity.adapters import SEALED
from jitaccess.identity.models import User
from jitaccess.identity.proof import CODE, PASSKEY
from jitaccess.identity.signed_in import end_sessions
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.secretbox import KeyRing, key_id
from jitaccess.kernel.strictjson import JsonObject

if TYPE_CHECKING:
    FormBase = forms.Form
else:
    FormBase = object

_WRONG = "That was not right, or it was used already."
# Where a sealed text lies in an authenticator's data, by its kind.
_SEALED_IN = {Authenticator.Type.TOTP: "secret", Authenticator.Type.RECOVERY_CODES: "seed"}


class _Once(FormBase):
    """A code of an app is good once (RFC 6238 section 5.2), in whichever process: allauth remembers that in its own."""

    authenticator: Any
    user: User

    def clean_code(self) -> str:
        tried = attempts.begin(context.request, self.user, kind=CODE)
        code: str = super().clean_code()  # type: ignore[misc]  # of the form it is mixed into
        if self.authenticator.type == Authenticator.Type.TOTP:
            use_step(self.authenticator.pk)
        tried.rollback()
        return code


def use_step(authenticator: int) -> None:
    """Take note that the code of now was used. Raises ValidationError: it was before."""
    step = int(time.time()) // app_settings.TOTP_PERIOD
    with transaction.atomic():
        row = Authenticator.objects.select_for_update().get(pk=authenticator)
        if step <= row.data.get("used_step", 0):
            raise ValidationError(_WRONG, code="incorrect_code")
        row.data["used_step"] = step
        row.save(update_fields=["data"])


class CodeForm(_Once, codes.AuthenticateForm):  # type: ignore[misc]  # allauth ships no types
    """Second step of a sign-in."""


class CodeAgainForm(_Once, codes.ReauthenticateForm):  # type: ignore[misc]  # allauth ships no types
    """Proof of who one is."""


class ChangePasswordForm(ChangePassword):  # type: ignore[misc]  # allauth ships no types
    """The password of now is a guess like any other: counted with the session's others, and on record when wrong."""

    def clean_oldpassword(self) -> str:
        given: str = self.cleaned_data.get("oldpassword", "")
        if not get_adapter().reauthenticate(self.user, given):
            raise get_adapter().validation_error("enter_current_password")
        return given


class _Told(FormBase):
    """What a browser's authenticator answers is anybody's JSON: nonsense is a wrong answer, and on record."""

    user: User | None

    def clean_credential(self) -> Authenticator:
        # Of a sign-in with nothing else only the answer says who it is: whoever made it up must not be counted as them.
        tried = attempts.begin(context.request, self.user, kind=PASSKEY) if self.user else None
        try:
            found = super().clean_credential()  # type: ignore[misc]  # of the form it is mixed into
        except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
            on_record.failed(context.request, self.user.username if self.user else "", by="webauthn")
            raise ValidationError(_WRONG, code="incorrect_code") from error
        if tried:
            tried.rollback()
        return found


class PasskeySignInForm(_Told, passkeys.LoginWebAuthnForm):  # type: ignore[misc]  # allauth ships no types
    """Sign-in with nothing but a passkey."""


class PasskeyForm(_Told, passkeys.AuthenticateWebAuthnForm):  # type: ignore[misc]  # allauth ships no types
    """Second step of a sign-in."""


class PasskeyAgainForm(_Told, passkeys.ReauthenticateWebAuthnForm):  # type: ignore[misc]  # allauth ships no types
    """Proof of who one is."""


class NewPasskeyForm(passkeys.AddWebAuthnForm):  # type: ignore[misc]  # allauth ships no types
    """As allauth's; a name of at most 60 characters."""

    name = forms.CharField(required=False, max_length=60)

    def clean(self) -> dict[str, Any]:
        try:
            cleaned: dict[str, Any] = super().clean()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValidationError(_WRONG, code="incorrect_code") from error
        return cleaned


def reset_factors(*, user: User, operator: Actor) -> int:
    """Remove every second factor of somebody who lost them, and sign them out everywhere. Returns how many."""
    with transaction.atomic():
        count: int = Authenticator.objects.filter(user=user).count()
        Authenticator.objects.filter(user=user).delete()
        data: JsonObject = {"for_user": user.username, "removed": count}
        record(Facts(event=Event.AUTHENTICATOR_RESET, actor=operator, data=data))
        end_sessions(user=user, actor=operator, why="second factor reset")
    return count


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many were sealed anew, how many were under the newest key already, and which could not be opened."""

    resealed: int
    current: int
    unreadable: tuple[str, ...]


def reseal_factors(keys: KeyRing, *, operator: Actor) -> Resealed:
    """Seal with the newest key what is under an older one. Safe to run again."""
    resealed, current, unreadable = 0, 0, []
    with transaction.atomic():
        for row in _sealed_rows().select_for_update(of=("self",)):
            name = _SEALED_IN[row.type]
            if key_id(row.data[name]) == keys.ids[0]:
                current += 1
                continue
            try:
                row.data[name] = keys.seal(keys.open(row.data[name], context=SEALED), context=SEALED)
            except Invalid:
                unreadable.append(_called(row))
                continue
            row.save(update_fields=["data"])
            resealed += 1
        if resealed:
            data: JsonObject = {"key": keys.ids[0], "second_factors": resealed, "unreadable": len(unreadable)}
            record(Facts(event=Event.CREDENTIALS_RESEALED, actor=operator, data=data))
    return Resealed(resealed, current, tuple(unreadable))


def sealed_with(key: str) -> list[str]:
    """Second factors that need this key, as people call them."""
    return [_called(row) for row in _sealed_rows() if key_id(row.data[_SEALED_IN[row.type]]) == key]


def keys_in_use() -> Counter[str]:
    """How many second factors are sealed with each key."""
    return Counter(key_id(row.data[_SEALED_IN[row.type]]) for row in _sealed_rows())


def _sealed_rows() -> Any:
    return Authenticator.objects.filter(type__in=list(_SEALED_IN)).select_related("user")


def _called(row: Authenticator) -> str:
    return f"{row.get_type_display()} of {row.user.username}"
