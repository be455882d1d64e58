"""HTTPS of the frontend's server: real clients, keep-alive, streams, and what is refused."""
import json
import shutil
import ssl
import subprocess
import time

import httpx
import pytest
from conftest import START_SECONDS, Server
from openai import OpenAI


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def secure(proa, certificate, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    server = Server(proa, ["--tls-cert-path", certificate / "cert.pem", "--tls-key-path", certificate / "key.pem"], log, {})
    server.url = server.url.replace("http:", "https:")
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    with httpx.Client(verify=context, base_url=server.url, timeout=20) as client:
        deadline, status = time.monotonic() + START_SECONDS, None
        while status != 200:
            assert time.monotonic() < deadline and server.process.poll() is None, server.log()
            try:
                status = client.get("/health").status_code
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        yield server, client, context
    server.stop()


def test_whole_and_stream(secure):
    _, client, _ = secure
    body = {"prompt": "the", "max_tokens": 400, "ignore_eos": True, "temperature": 0}
    whole = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        lines = [line for line in response.iter_text()]
    events = [e.removeprefix("data: ") for e in "".join(lines).split("\n\n") if e]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1]) == whole


def test_openai(secure):
    server, _, context = secure
    client = OpenAI(base_url=server.url + "/v1", api_key="x", http_client=httpx.Client(verify=context), max_retries=0)
    answer = client.chat.completions.create(model="default", messages=[{"role": "user", "content": "what is 384+967?"}])
    assert answer.choices[0].message.content == "1351"


def test_plain_clients_and_old_tls_are_refused(secure, certificate):
    server, client, _ = secure
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https:", "http:") + "/health", timeout=5)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificate / "cert.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        httpx.get(server.url + "/health", verify=old, timeout=5)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("flags, what", [(["--tls-cert-path", "/none"], "both"),
                                         (["--tls-cert-path", "/none", "--tls-key-path", "/none"], "/none")])
def test_bad_files(run, flags, what):
    done = run("serve", *flags)
    assert done.returncode == 1 and what in done.stderr
