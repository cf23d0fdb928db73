"""Limits of the open port without a port: groups that push out, pace, addresses, files, notices, callers."""

import datetime as dt
import resource

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures.port_attacks import openssh, signed_headers
from hypothesis import given
from hypothesis import strategies as st

from server.admin.roster import Roster, save_roster
from server.flower.callers import Caller, Callers
from server.flower.port_limits import Groups, Limits, Pace, address_group, raise_file_limit
from server.flower.port_notices import Notices, Refused


def test_a_full_group_loses_its_oldest_member():
    groups = Groups(total=10, per_group=2)
    assert [groups.add(member, "a") for member in "xyz"] == [None, None, "x"]
    groups.touch("y")
    assert groups.add("w", "a") == "z"
    assert groups.size("a") == 2


def test_a_small_group_is_not_pushed_out_by_larger_ones():
    groups = Groups(total=6, per_group=4)
    groups.add("site", "small")
    for number in range(100):
        assert groups.add(number, f"large {number % 2}") != "site"
    assert len(groups) == 6


def test_a_spared_group_loses_a_member_only_if_no_other_group_has_one():
    groups = Groups(total=3, per_group=3, spared={"site"}.__contains__)
    groups.add("first", "site")
    groups.add("second", "site")
    groups.add("stranger", "elsewhere")
    assert groups.add("third", "site") == "stranger"
    assert groups.add("stranger", "elsewhere") == "first"


def test_a_member_that_changes_its_group_is_counted_once():
    groups = Groups(total=3, per_group=3)
    groups.add("x", "a")
    assert groups.add("x", "b") is None
    assert (len(groups), groups.size("a"), groups.size("b")) == (1, 0, 1)
    groups.remove("x")
    groups.remove("x")
    assert len(groups) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), max_size=200))
def test_groups_never_exceed_their_bounds(events):
    groups, present = Groups(total=7, per_group=3), set()
    for member, group, joins in events:
        if joins:
            victim = groups.add(member, group)
            assert victim != member
            present = (present | {member}) - {victim}
        else:
            groups.remove(member)
            present.discard(member)
        assert len(groups) == len(present) == sum(groups.size(g) for g in range(6)) <= 7
        assert max(groups.size(g) for g in range(6)) <= 3


def test_pace_allows_a_burst_and_then_its_rate_for_each_group_apart():
    pace = Pace(rate=2, burst=3)
    assert [pace.allow("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert pace.allow("b", 0.0)
    assert [pace.allow("a", 1.0) for _ in range(3)] == [True, True, False]
    assert [pace.allow("a", 1000.0) for _ in range(4)] == [True, True, True, False]


def test_pace_remembers_a_bounded_number_of_groups():
    pace = Pace(rate=1, burst=1)
    for number in range(10_000):
        pace.allow(number, 0.0)
    assert len(pace._buckets) <= 4096


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(host, group):
    assert address_group(host) == group


@pytest.mark.parametrize("files", [64, 300, 512, 1024, 20_000, 10**6])
def test_connections_leave_files_for_everything_else(files):
    limits = Limits.for_files(files)
    assert limits.unknown_per_address <= limits.unknown
    assert limits.unknown + limits.known <= max(files - 256, 32)
    assert min(limits.unknown, limits.known, limits.unknown_per_address) >= 1


def test_the_number_of_files_is_raised_as_far_as_allowed(monkeypatch):
    said = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: said.append(pair))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 20_000))
    assert raise_file_limit() == 20_000
    assert said == [(20_000, 20_000)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert raise_file_limit() == 65_536
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    assert raise_file_limit() == 4096
    assert len(said) == 2


class TestNotices:
    @pytest.fixture
    def lines(self):
        return []

    @pytest.fixture
    def clock(self):
        return [0.0]

    @pytest.fixture
    def notices(self, lines, clock):
        return Notices(lines.append, lambda: clock[0])

    def test_a_kind_is_one_line_with_the_addresses(self, notices, lines, clock):
        for _ in range(1100):
            notices.count(Refused.SILENT, "203.0.113.5")
        notices.count(Refused.SILENT, "198.51.100.7")
        notices.count(Refused.CLOSED_PATH, "198.51.100.7")
        notices.flush()
        assert lines == []
        clock[0] = 6.0
        notices.flush()
        notices.flush()
        assert lines == [
            "connections that sent nothing for 10 s: refused 1101 (1100 from 203.0.113.5, 1 from 198.51.100.7)",
            "requests for a path that sites do not use: refused 1 (1 from 198.51.100.7)",
        ]

    def test_what_goes_on_is_a_line_every_ten_minutes(self, notices, lines, clock):
        for second in range(3600):
            clock[0] = float(second)
            notices.count(Refused.SILENT, "203.0.113.5")
            notices.flush()
        assert len(lines) == 6
        assert sum(int(line.split("refused ")[1].split()[0]) for line in lines) > 3000

    def test_a_hundred_thousand_addresses_are_one_line_and_little_memory(self, notices, lines):
        for number in range(100_000):
            notices.count(Refused.TOO_FAST, f"2001:db8::{number:x}")
        notices.flush(everything=True)
        assert len(lines) == 1
        assert "refused 100000" in lines[0]
        assert "99997 from other addresses" in lines[0]
        notices.flush(everything=True)
        assert len(lines) == 1


class TestCallers:
    @pytest.fixture
    def key(self):
        return ec.generate_private_key(ec.SECP384R1())

    @pytest.fixture
    def roster(self, key, tmp_path):
        path = tmp_path / "roster.yaml"
        save_roster(Roster().enroll("county", openssh(key), dt.datetime.now(dt.UTC)), path)
        return path

    def test_a_signed_request_of_an_enrolled_key_names_its_site(self, key, roster):
        assert Callers(roster).identify(signed_headers(key)) == "county"

    def test_a_key_outside_the_roster_is_not_enrolled(self, roster):
        assert Callers(roster).identify(signed_headers(ec.generate_private_key(ec.SECP384R1()))) is Caller.NOT_ENROLLED

    @pytest.mark.parametrize("age_s", [-60, 400, 10**8])
    def test_a_signature_of_another_time_is_worth_nothing(self, key, roster, age_s):
        assert Callers(roster).identify(signed_headers(key, age_s)) is Caller.UNSIGNED

    def test_an_enrolled_key_with_the_signature_of_another_is_worth_nothing(self, key, roster):
        mixed = dict(signed_headers(ec.generate_private_key(ec.SECP384R1()))) | {
            b"flwr-public-key": signed_headers(key)[0][1]
        }
        assert Callers(roster).identify(list(mixed.items())) is Caller.UNSIGNED

    @pytest.mark.parametrize("name", [b"flwr-public-key", b"flwr-timestamp", b"flwr-signature"])
    @pytest.mark.parametrize(
        "value", [None, b"", b"%%", b"\xff\xfe", b"a" * 16_000, b"QUFBQQ==", b"2026-11-28T14:00:00", b"9999-99-99"]
    )
    def test_damaged_headers_raise_nothing(self, key, roster, name, value):
        damaged = [(n, v) for n, v in signed_headers(key) if n != name] + ([] if value is None else [(name, value)])
        assert isinstance(Callers(roster).identify(damaged), Caller)

    def test_a_site_that_joins_is_known_and_one_that_leaves_stays_known(self, key, roster):
        callers, late = Callers(roster), ec.generate_private_key(ec.SECP384R1())
        assert callers.identify(signed_headers(late)) is Caller.NOT_ENROLLED
        save_roster(Roster().enroll("mercy", openssh(late), dt.datetime.now(dt.UTC)), roster)
        assert [callers.identify(signed_headers(k)) for k in (late, key)] == ["mercy", "county"]

    def test_a_roster_that_is_half_edited_keeps_the_keys_of_before(self, key, roster):
        callers = Callers(roster)
        assert callers.identify(signed_headers(key)) == "county"
        roster.write_text("sites: [")
        assert callers.identify(signed_headers(key)) == "county"
