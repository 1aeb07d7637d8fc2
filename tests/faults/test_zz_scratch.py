import pytest, signal, time, threading, httpx2
from tests.databases import PostgreSQL
from tests.installation import eventually, Process, free_port
from tests.redis import Redis
pytestmark=[pytest.mark.postgresql_only, pytest.mark.timeout(300)]

def test_x(ready, server, tmp_path):
    inst = ready.installation.copy(tmp_path/"var", database_url=server.url("jitaccess"))
    inst.environment |= {"JITACCESS_STOP_SECONDS":"2"}
    redis = Redis("a-password").start()
    procs={}
    procs["web-embedded"]=inst.start("web")
    inst.environment |= {"REDIS_URL":redis.url}
    for role in ("web","gateway","worker","beat"):
        procs[role]=inst.start(role)
    server.freeze()
    for n,p in procs.items():
        eventually(lambda: not httpx2.get(f"{p.url}/readyz",timeout=10).json()["ready"], within=20)
    for n,p in procs.items():
        t=time.monotonic()
        p.popen.send_signal(signal.SIGTERM)
        try:
            p.popen.wait(25); print("STOP", n, time.monotonic()-t, p.popen.returncode)
        except Exception as e: print("STOP", n, "HANGS", repr(e)[:80])
    for n,p in procs.items():
        if p.popen.poll() is None: p.popen.kill()
        p.stop()
        print("=====",n); print(p.output[-700:])
    server.thaw()
    w=inst.start("worker")
    eventually(lambda: httpx2.get(f"{w.url}/readyz",timeout=10).json()["ready"], within=20)
    print(redis.ask("ACL","SETUSER","default","-brpop"))
    try:
       w.popen.wait(25)
    except Exception as e: print(repr(e)); w.popen.kill()
    print("NOPERM worker", w.popen.returncode); w.stop(); print(w.output[-1500:])
    redis.stop()
