"""Systems that fail in the middle: what was not finished has not happened, and the rest goes on."""

from __future__ import annotations

import _thread
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from child import run
from meteora_rs import Meteora
from meteora_rs.errors import MeteoraError
from tiny import adapter, equal, logits, prompt, tiny_model, write
from torch import Tensor


def by(meteora: Meteora, name: str) -> Tensor:
    with meteora.routing(name):
        return logits(meteora.model, prompt())


def check_untouched(meteora: Meteora, before: Tensor) -> None:
    """Nothing is half done, and there is as much room as before."""
    stats = meteora.stats()
    assert stats.slots.pending == stats.slots.held == stats.rank_rows.pending == 0
    assert equal(by(meteora, "math"), before)
    meteora.load_adapter(adapter(meteora.model, 4, seed=9), "another")
    meteora.unload_adapter("another")


def test_a_panic_is_contained(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    before = by(loaded, "math")
    with monkeypatch.context() as patch:
        patch.setattr(loaded, "sites", loaded.sites[:2])  # the writer finds fewer sites than were checked
        with pytest.raises(MeteoraError, match="internal error, please report it: index out of bounds"):
            loaded.load_adapter(adapter(loaded.model, 4, seed=5), "new", gate="none")
    check_untouched(loaded, before)
    loaded.load_adapter(adapter(loaded.model, 4, seed=5), "new", gate="none")


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* read(2) of an adapter's tensors: fails with EIO, or finds the file cut short after the first part. */
ssize_t read(int descriptor, void *buffer, size_t size) {
    static ssize_t (*system_read)(int, void *, size_t);
    if (!system_read) system_read = dlsym(RTLD_NEXT, "read");
    const char *fault = getenv("FAULT");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = fault ? readlink(link, path, sizeof path - 1) : -1;
    if (length > 0) {
        path[length] = 0;
        if (strstr(path, "faulty/adapter_model.safetensors")) {
            if (!strcmp(fault, "eio")) { errno = EIO; return -1; }
            ssize_t got = system_read(descriptor, buffer, size > 4096 ? 4096 : size);
            if (truncate(path, 4096)) return -1;
            return got;
        }
    }
    return system_read(descriptor, buffer, size);
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is needed to make reads fail")
def test_reads_that_fail(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    for folder in ("faulty", "good"):
        write(adapter(tiny_model(), 8), tmp_path / folder)
    script = f"""
    before = meteora.stats().slots, meteora.stats().rank_rows
    for fault in ("eio", "cut"):
        os.environ["FAULT"] = fault
        try:
            meteora.load_adapter("{tmp_path}/faulty", "new")
        except Exception as error:
            print(type(error).__name__, error)
        assert (meteora.stats().slots, meteora.stats().rank_rows) == before
    meteora.load_adapter("{tmp_path}/good", "new")
    """
    done = run(script, LD_PRELOAD=str(shim))
    assert done.returncode == 0, done.stderr
    eio, cut = done.stdout.splitlines()
    assert eio == f"OSError [Errno 5] Input/output error: '{tmp_path}/faulty/adapter_model.safetensors'"
    assert cut.startswith('AdapterFormatError adapter "new": changed while it was read') and str(tmp_path) in cut


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    script = f"""
    import resource
    before = meteora.stats()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        meteora.save_pretrained("{tmp_path}/bundle")
    except OSError as error:
        print(repr(error))
    assert not os.listdir("{tmp_path}"), os.listdir("{tmp_path}")
    after = meteora.stats()
    assert (after.slots, after.held) == (before.slots, before.held)
    meteora.load_adapter(adapter(model, 4, seed=2), "new")
    print("usable")
    """
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert "usable" in done.stdout and "OSError(27" in done.stdout, done.stdout


def test_an_interrupt_in_the_middle_of_a_load(loaded: Meteora) -> None:
    """As Ctrl-C, and SIGTERM where a service turns it into an exception."""
    before, source = by(loaded, "math"), adapter(loaded.model, 4, seed=5)
    draw, interrupted = random.Random(0), 0
    for _ in range(150):
        timer = threading.Timer(draw.random() * 0.004, _thread.interrupt_main)
        try:
            timer.start()
            loaded.load_adapter(source, "new")
            loaded.unload_adapter("new")
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            try:
                timer.join()
            except KeyboardInterrupt:
                interrupted += 1
        if any(record.name == "new" for record in loaded.adapters()):
            loaded.unload_adapter("new")
        assert loaded.stats().slots.pending == 0
    assert interrupted > 0
    check_untouched(loaded, before)


def test_an_interrupt_after_an_unload_keeps_no_memory(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter(loaded.model, 4, seed=5)
    loaded.load_adapter(source, "new")
    with monkeypatch.context() as patch:
        patch.setattr(loaded._context, "refresh", _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):
            loaded.unload_adapter("new")
            time.sleep(1)
    loaded.load_adapter(source, "new")
