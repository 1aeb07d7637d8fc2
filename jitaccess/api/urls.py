from __future__ import annotations

from django.urls import path, re_path

from jitaccess.api import (
    agents,
    catalog,
    deciding,
    delegations,
    explaining,
    grants,
    ledger,
    locks,
    policy,
    requests,
    root,
    tokens,
)

# Tells the generator of the OpenAPI file about our classes; here, because commands need not pay for it.
from jitaccess.api import schema as schema  # noqa: PLC0414

app_name = "api"
urlpatterns = [
    path("v1/", root.Index.as_view(), name="index"),
    path("v1/me", root.Me.as_view(), name="me"),
    path("v1/requests", requests.RequestList.as_view(), name="requests"),
    path("v1/requests/<uuid:request_id>", requests.RequestShow.as_view(), name="request"),
    path("v1/requests/<uuid:request_id>/timeline", requests.RequestTimeline.as_view(), name="timeline"),
    path("v1/requests/<uuid:request_id>/cancel", requests.RequestCancel.as_view(), name="cancel"),
    path("v1/requests/<uuid:request_id>/approve", deciding.RequestApprove.as_view(), name="approve"),
    path("v1/requests/<uuid:request_id>/deny", deciding.RequestDeny.as_view(), name="deny"),
    path("v1/requests/<uuid:request_id>/ask-for-changes", deciding.RequestChanges.as_view(), name="changes"),
    path("v1/requests/<uuid:request_id>/comment", deciding.RequestComment.as_view(), name="comment"),
    path("v1/requestable", catalog.RequestableList.as_view(), name="requestable"),
    path("v1/grants", grants.GrantList.as_view(), name="grants"),
    path("v1/grants/<uuid:grant_id>", grants.GrantShow.as_view(), name="grant"),
    path("v1/grants/<uuid:grant_id>/revoke", grants.GrantRevoke.as_view(), name="revoke"),
    path("v1/grants/<uuid:grant_id>/release", grants.GrantRelease.as_view(), name="release"),
    path("v1/grants/<uuid:grant_id>/extend", grants.GrantExtend.as_view(), name="extend"),
    path("v1/delegations", delegations.DelegationList.as_view(), name="delegations"),
    path("v1/delegations/<uuid:delegation_id>/end", delegations.DelegationEnd.as_view(), name="end-delegation"),
    path("v1/agents", agents.AgentList.as_view(), name="agents"),
    path("v1/agents/<uuid:agent_id>", agents.AgentShow.as_view(), name="agent"),
    path("v1/agents/<uuid:agent_id>/enable", agents.AgentEnable.as_view(), name="enable"),
    path("v1/agents/<uuid:agent_id>/disable", agents.AgentDisable.as_view(), name="disable"),
    path("v1/agents/<uuid:agent_id>/tokens", tokens.AgentTokens.as_view(), name="tokens"),
    path("v1/agents/<uuid:agent_id>/tokens/<uuid:token_id>/revoke", tokens.TokenRevoke.as_view(), name="revoke-token"),
    path("v1/servers", catalog.ServerList.as_view(), name="servers"),
    path("v1/servers/<uuid:server_id>", catalog.ServerShow.as_view(), name="server"),
    path("v1/servers/<uuid:server_id>/options", catalog.ServerOptions.as_view(), name="server-options"),
    path("v1/tools", catalog.ToolList.as_view(), name="tools"),
    path("v1/tools/<uuid:tool_id>", catalog.ToolShow.as_view(), name="tool"),
    path("v1/tools/<uuid:tool_id>/classify", catalog.ToolClassify.as_view(), name="classify"),
    path("v1/roles", policy.RoleList.as_view(), name="roles"),
    path("v1/roles/<uuid:role_id>", policy.RoleShow.as_view(), name="role"),
    path("v1/bindings", policy.BindingList.as_view(), name="bindings"),
    path("v1/explain", explaining.Explain.as_view(), name="explain"),
    path("v1/locks", locks.LockList.as_view(), name="locks"),
    path("v1/locks/<uuid:lock_id>/lift", locks.LockLift.as_view(), name="lift"),
    path("v1/ledger/entries", ledger.EntryList.as_view(), name="entries"),
    path("v1/ledger/entries/<uuid:uid>", ledger.EntryShow.as_view(), name="entry"),
    path("v1/ledger/entries/<uuid:uid>/proof", ledger.EntryProof.as_view(), name="proof"),
    path("v1/ledger/checkpoints", ledger.CheckpointList.as_view(), name="checkpoints"),
    path("v1/openapi.json", root.OpenApi.as_view(), name="openapi"),
    path("v1/docs/", root.Docs.as_view(), name="docs"),
    re_path("", root.Unknown.as_view()),
]
