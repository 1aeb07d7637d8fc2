import os, subprocess, sys, time, pytest, gc, resource
from django.utils import timezone
from pathlib import Path
from tests.gateway.harness import eventually
from jitaccess.identity.services import issue_token, create_agent
from tests.gateway.conftest import *
from tests.conftest import *
from jitaccess.identity.models import Agent, AccessToken
pytestmark = pytest.mark.django_db(transaction=True)
def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def cpu():
    return time.process_time()
def test_many(cast, gateway):
    n=int(os.environ.get("N","1000"))
    agents=[create_agent(name=f"agent-{i}", owner=cast.olga, team=cast.team, operator=cast.operator) for i in range(-(-n//16))]
    tokens=[]
    for a in agents:
        for _ in range(16):
            tokens.append(issue_token(agent=a,user=None,ttl=3600,operator=cast.operator)[0])
    tokens=tokens[:n]
    gc.collect(); before=rss(); c0=cpu()
    port=gateway.url.rpartition(":")[2]
    p=subprocess.Popen([sys.executable,"-I","-S",str(Path("tests/gateway/many_clients.py").absolute()),port,str(n)],stdin=subprocess.PIPE,stdout=subprocess.PIPE,text=True)
    t=time.time()
    p.stdin.write("\n".join(tokens)+"\n"); p.stdin.flush()
    assert p.stdout.readline()=="open\n"
    gc.collect()
    print("opened in",time.time()-t,"cpu",cpu()-c0,"bytes/stream",(rss()-before)/n, len(gateway.gateway.streams))
    c=cpu(); time.sleep(10); print("idle cpu/s",(cpu()-c)/10)
    from jitaccess.catalog.models import AccessClass
    from jitaccess.catalog.services import classify_tool
    for i in range(2):
        c=cpu()
        classify_tool(tool=cast.tools["git_add"], access=AccessClass.READ if i%2==0 else AccessClass.WRITE, operator=cast.operator)
        p.stdin.write("30\n"); p.stdin.flush()
        print("change", p.stdout.readline(), "cpu", cpu()-c)
    c=cpu()
    for i in range(20):
        from jitaccess.identity.services import set_agent_enabled
        set_agent_enabled(agent=cast.agent, enabled=i%2==1, operator=cast.operator); time.sleep(0.1)
    print("20 unrelated writes cpu", cpu()-c)
    p.stdin.close(); p.stdout.close(); p.kill(); p.wait()
    eventually(lambda: len(gateway.gateway.streams)==0, within=30)
    gc.collect()
    print("after", (rss()-before)/n)
import time as _t
from jitaccess.gateway import core as _core
from jitaccess.gateway import streams as _s
_orig=_core.ended_tokens
def _timed(h):
    a=_t.perf_counter(); c=_t.thread_time(); r=_orig(h); d=_t.perf_counter()-a
    if d>0.3: print("ended_tokens",len(h),round(d,2),"cpu",round(_t.thread_time()-c,3))
    return r
_core.ended_tokens=_timed
_o2=_core.Gateway._check_streams
async def _cs(self):
    a=_t.perf_counter(); r=await _o2(self); d=_t.perf_counter()-a
    if d>0.5: print("check",round(d,2),len(self.streams))
    return r
_core.Gateway._check_streams=_cs
_o3=_core.Gateway._look
def _lk(self,p):
    a=_t.perf_counter(); r=_o3(self,p); d=_t.perf_counter()-a
    if d>0.3: print("look",round(d,2))
    return r
_core.Gateway._look=_lk
_o4=_s.Streams.end_all
def _ea(self): print("END ALL", len(self)); _o4(self)
_s.Streams.end_all=_ea
