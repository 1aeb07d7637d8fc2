import pytest
from tests.cast import Cast
from requests_app.standing import look
from requests_app.card.card import card_of
from requests_app.card.lines import card_lines
def test_x(cast):
    r = cast.submit("git_commit","git_reset", reason="line one\nBcc: x <b>bold</b> https://evil.example/x www.evil.example")
    for l in card_lines(card_of(look(r.pk), None, channel="email")): print(l)
    cast.deny(r)
    for l in card_lines(card_of(look(r.pk), None, channel="email")): print(l)
    assert 0
