"""Files that are written whole or not at all."""

from pathlib import Path

import pytest

from llmbook.files import write_whole


def test_text_and_bytes_arrive_as_they_are(tmp_path):
    path = tmp_path / "new" / "a.csv"
    assert write_whole(path, "Größe\r\n") == path
    assert path.read_bytes() == "Größe\r\n".encode()
    write_whole(path, b"\x00\xff", mode=0o600)
    assert path.read_bytes() == b"\x00\xff" and path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["content", "rename"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, step):
    path, content = write_whole(tmp_path / "a.json", "old"), "new"
    if step == "content":
        content = "new \ud800"
    else:
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises((UnicodeEncodeError, OSError)):
        write_whole(path, content)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
