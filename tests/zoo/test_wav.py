import wave

import numpy as np
import pytest

from paretune.errors import DataError
from paretune.zoo import wav


def write(path, samples, rate=8000, channels=1, width=2):
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(samples.tobytes())


def test_reads_back_samples_and_rate(tmp_path):
    samples = np.int16([0, 1, -1, 32767, -32768])
    write(tmp_path / "a.wav", samples, rate=16000)
    read, rate = wav(tmp_path / "a.wav")
    assert read.tolist() == samples.tolist()
    assert (read.dtype, rate) == (np.int16, 16000)


def test_stereo_and_other_widths_are_refused_with_a_way_out(tmp_path):
    write(tmp_path / "stereo.wav", np.zeros(4, np.int16), channels=2)
    with pytest.raises(DataError, match=r"2 channel\(s\) of 16 bit.*ffmpeg -i stereo\.wav -ac 1"):
        wav(tmp_path / "stereo.wav")
    write(tmp_path / "narrow.wav", np.zeros(4, np.uint8), width=1)
    with pytest.raises(DataError, match="of 8 bit"):
        wav(tmp_path / "narrow.wav")


@pytest.mark.parametrize("keep", [0, 10, 40, -7])
def test_a_truncated_file_is_a_data_error(tmp_path, keep):
    write(tmp_path / "a.wav", np.arange(100, dtype=np.int16))
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.wav is damaged"):
        wav(tmp_path / "a.wav")


def test_another_format_and_a_missing_file(tmp_path):
    (tmp_path / "song.wav").write_bytes(b"ID3" + bytes(100))
    with pytest.raises(DataError, match="RIFF"):
        wav(tmp_path / "song.wav")
    with pytest.raises(DataError, match=r"Did you mean 'song\.wav'\?"):
        wav(tmp_path / "songs.wav")
