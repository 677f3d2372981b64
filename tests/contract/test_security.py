"""SECURITY.md keeps its word: each of its statements has a test that holds it, and no statement is without one."""

from pathlib import Path

from tests.contract.test_reliability import names_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "SECURITY.md"

# How a statement begins → what holds it.
HELD: dict[str, tuple[str, ...]] = {
    "**Privileges.**": (
        "tests/kernel/test_life.py::test_privileges_are_given_up_in_every_thread_and_nothing_breaks",
        "tests/kernel/test_listening.py::test_names_take_no_packet_socket_and_no_process_of_their_own_and_can_be_switched_off",
        "tests/kernel/test_what_is_read.py::test_no_namespace_is_entered_and_no_packet_socket_opened",
        "tests/kernel/test_capture.py::test_nothing_is_left_in_the_kernel",
    ),
    "**Its status pages.**": (
        "tests/unit/test_status_server.py::test_only_get_is_answered",
        "tests/unit/test_status_server.py::test_a_name_that_could_be_rebound_is_refused",
        "tests/unit/test_status_server.py::test_many_connections_cost_the_oldest_not_the_newest",
        "tests/unit/test_status_server.py::test_a_slow_client_is_cut_off_in_the_end",
    ),
    "**The compiler.**": (
        "tests/kernel/test_what_is_read.py::test_the_compiler_has_an_environment_and_a_folder_of_its_own",
    ),
    "**The bindings.**": ("tests/kernel/test_refusals.py::test_the_wrong_bcc",),
    "**Command line.**": (
        "tests/kernel/test_arguments.py::test_the_first_argument_alone_is_read",
        "tests/kernel/test_arguments.py::test_no_secret_of_the_corpus_comes_out",
        "tests/unit/test_processes.py::test_the_first_argument_can_be_read_alone",
        "tests/unit/test_processes.py::test_secrets_are_not_even_remembered",
    ),
    "**Environment.**": (
        "tests/unit/test_layout.py::test_the_strings_of_a_text",
        "tests/kernel/test_what_is_read.py::test_of_an_environment_two_variables_are_sent",
        "tests/kernel/test_what_is_read.py::test_what_is_opened_of_a_process",
    ),
    "**Memory.**": (
        "tests/kernel/test_what_is_read.py::test_what_is_opened_of_a_process",
        "tests/unit/test_otel_context.py::test_the_names_of_the_mapping",
    ),
    "**Files.**": (
        "tests/kernel/test_what_is_read.py::test_what_is_opened_of_a_process",
        "tests/kernel/test_what_is_read.py::test_a_file_that_processes_share_is_opened_once",
        "tests/unit/test_rooted.py::test_only_a_regular_file_of_moderate_size_inside_is_read",
        "tests/unit/test_rooted.py::test_links_of_proc_do_not_lead_out",
    ),
    "**Packets.**": (
        "tests/kernel/test_packets.py::test_each_question_and_each_answer_is_taken_once_and_nothing_else",
        "tests/kernel/test_listening.py::test_names_take_no_packet_socket_and_no_process_of_their_own_and_can_be_switched_off",
    ),
    "Names of processes, files and users": (
        "tests/kernel/test_hostile_names.py::test_nothing_reaches_a_terminal",
        "tests/kernel/test_hostile_names.py::test_json_lines_stay_lines_and_lose_nothing",
        "tests/unit/test_users.py::test_the_first_line_of_a_number_counts_and_names_are_bounded",
    ),
    "Messages of name servers": (
        "tests/kernel/test_life.py::test_privileges_are_given_up_in_every_thread_and_nothing_breaks",
        "tests/unit/test_lookups.py::test_answers_that_name_nothing_are_counted_by_reason",
        "tests/unit/test_lookups.py::test_an_answer_that_differs_in_anything_is_ignored",
    ),
    "The spool directory": ("tests/fault/test_spool_disk.py::test_a_directory_that_must_not_be_used",),
    "Files and memory of other processes": (
        "tests/kernel/test_silent_files.py::test_who_never_answers_is_given_up_and_others_are_named",
        "tests/kernel/test_silent_files.py::test_the_privilege_to_read_others_is_the_readers_alone",
    ),
    "Answers of a backend": ("tests/fault/test_hostile_answers.py::test_a_broken_http_answer_costs_nothing",),
    "To the endpoint that you configure": (
        "tests/contract/test_telemetry_names.py::test_attributes_of_an_attempt",
        "tests/contract/test_telemetry_names.py::test_resource_attributes",
        "tests/kernel/test_what_is_read.py::test_nothing_is_sent_anywhere_without_an_endpoint",
    ),
    "What of it you do not want": (
        "tests/kernel/test_privacy.py::test_host_bits_leave_neither_in_records_nor_spans_nor_metrics",
        "tests/kernel/test_filters.py::test_what_is_filtered_is_counted_or_not_as_is_wanted_and_rules_come_and_go",
    ),
    "Header values and client keys": (
        "tests/unit/test_endpoint.py::test_secrets_are_not_shown",
        "tests/fault/test_delivery.py::test_a_strange_certificate_is_an_operators_error",
    ),
}


def statements(page: str) -> list[str]:
    """Return the items of the page's lists, each as one line."""
    items = page.split("\n* ")[1:]
    return [" ".join(item.split("\n\n")[0].split()) for item in items]


def test_each_statement_has_a_test() -> None:
    found = statements(PAGE.read_text(encoding="utf-8"))
    beginnings = {one: [begin for begin in HELD if one.startswith(begin)] for one in found}
    assert {one: begins for one, begins in beginnings.items() if len(begins) != 1} == {}
    assert {begins[0] for begins in beginnings.values()} == HELD.keys()


def test_each_of_these_tests_exists() -> None:
    named = [test.split("::") for tests in HELD.values() for test in tests]
    assert [(file, test) for file, test in named if test not in names_in(ROOT / file)] == []
