import signal, threading, time, psutil, httpx2, pytest
from tests.gateway.harness import Client
from tests.installation import eventually

@pytest.mark.parametrize("sig",[signal.SIGTERM, signal.SIGINT])
def test_s(installation, sig):
    for turn in range(2):
        process = installation.up()
        token = installation.token("--ttl","60m")
        mt=(installation.var/"secrets/metrics_token").read_text().strip()
        with Client(process.url, token) as c:
            print(str(c.call("git_status", repo_path="."))[:80])
            kids = [k for k in psutil.Process(process.popen.pid).children(recursive=True)]
            print(len(kids), [" ".join(k.cmdline())[-40:] for k in kids])
            with c.listen() as stream:
                for k in kids:
                    if "mcp_server_git" in " ".join(k.cmdline()): k.suspend()
                with c.begin("git_log", repo_path=".") as s:
                    before=len(installation.ledger("call.authorized"))
                    time.sleep(.5)
                    stopf=threading.Event()
                    def scrape():
                        while not stopf.is_set():
                            for pth in ("/metrics","/readyz"):
                                try: httpx2.get(process.url+pth, headers={"authorization":"Bearer "+mt},timeout=3)
                                except Exception: pass
                    th=[threading.Thread(target=scrape) for _ in range(3)]
                    [t.start() for t in th]
                    time.sleep(.7)
                    took=process.stop(sig)
                    stopf.set(); [t.join() for t in th]
                    print("took", took, process.popen.returncode)
                    s.settimeout(3)
                    try: print("client got", s.recv(300))
                    except Exception as e: print(repr(e))
                print("left", psutil.wait_procs(kids, timeout=2)[1])
        print([ (e["event"], e["data"].get("why") or e["data"].get("detail")) for e in installation.ledger()][-5:])
        print([l for l in process.lines if l.strip()][-14:])
