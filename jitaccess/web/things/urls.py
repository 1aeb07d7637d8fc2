from __future__ import annotations

from django.urls import path

from jitaccess.web.things import locks, servers, simulator

urlpatterns = [
    path("servers/", servers.servers, name="servers"),
    path("servers/<slug:slug>/", servers.server, name="server"),
    path("servers/<slug:slug>/classify/", servers.classify, name="classify"),
    path("simulator/", simulator.simulator, name="simulator"),
    path("locks/", locks.locks, name="locks"),
    path("locks/new/", locks.lock, name="lock"),
    path("locks/<uuid:lock_id>/lift/", locks.unlock, name="unlock"),
]
