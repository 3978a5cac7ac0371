"""The page that stays current while a run goes on."""

from measured import put_report, put_student

from slimctl.jobs.storage.lease import Lease
from slimctl.orchestrator.cli import following
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import save_pipeline

RUN = "going-20260102-120000-aaaa"
RELOAD = 'http-equiv="refresh"'


def test_a_followed_page_is_written_again_until_the_run_is_over(
    slimctl, store, monkeypatch, tmp_path
):
    put_student(store, "a")
    report = put_report(store, "a", "anneal_reflow-a", fid=3.25)
    save_pipeline(store.blobs, RUN, "name: going\n")
    log = EventLog(store.blobs, RUN)
    job = {"kind": "evaluate", "key": "k", "artifact": report}
    log.add("run_started", name="going", jobs={"quality": job})
    log.add("job_started", "quality", attempt=1)
    log.flush()
    page, pages = tmp_path / "page.html", []

    def sleep(seconds):
        pages.append(page.read_text())
        if len(pages) == 2:  # nothing new between the first and the second
            log.add("job_done", "quality", wall_s=1.0, device_s=1.0)
        if len(pages) == 3:
            log.add("run_ended", state="done")
        log.flush()

    monkeypatch.setattr(following.time, "sleep", sleep)
    monkeypatch.setattr(Lease, "is_alive", lambda self: True)
    ended = slimctl("report", RUN, "--follow", "--no-trajectories", "-o", page)
    assert (ended.code, ended.out) == (0, f"{page}\n")
    pages.append(page.read_text())
    assert [RELOAD in one for one in pages] == [True, True, True, False]
    assert ["3.25" in one for one in pages] == [False, False, True, True]
    assert pages[0] == pages[1]
    assert not list(tmp_path.glob("*.part"))


def test_a_page_of_an_interrupted_run_ends_and_says_how_to_go_on(slimctl, store, tmp_path):
    save_pipeline(store.blobs, RUN, "name: going\n")
    log = EventLog(store.blobs, RUN)
    log.add("run_started", name="going", jobs={})
    log.flush()
    page = tmp_path / "page.html"
    ended = slimctl("report", RUN, "-f", "-o", page)
    assert ended.code == 0
    assert f"slimctl resume {RUN}" in ended.err
    assert RELOAD not in page.read_text()
