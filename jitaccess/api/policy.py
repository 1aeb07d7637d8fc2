"""Roles, and who has them: to be read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Endpoint, Request, Response, caller_of
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import query
from jitaccess.api.schema import documented, listing
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.models import Role, RoleBinding
from jitaccess.store.paging import part_of


class BindingQuery(Paged):
    origin = serializers.ChoiceField(choices=RoleBinding.Origin.values, required=False)


class RoleList(Endpoint):
    @documented("roles_list", "Roles", "For staff.", tag="policy", query=Paged, answer=listing(shapes.Role))
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading("jit_policy.role")
        part = part_of(Role.objects.all(), **place(query(request, Paged)))
        return page(request, part, [_role(role) for role in part.rows])


class RoleShow(Endpoint):
    @documented(
        "roles_show", "One role", "For staff. With its document and versions.", tag="policy", answer=shapes.FullRole
    )
    def get(self, request: Request, role_id: UUID) -> Response:
        caller_of(request).insist_on_reading("jit_policy.role")
        role = Role.objects.filter(pk=role_id).first()
        if role is None:
            raise NotFound("role.unknown", "There is no such role.")
        versions = [
            {"version": one.version, "saved_by": one.saved_by, "saved_at": one.saved_at.isoformat()}
            for one in role.versions.all()[:100]
        ]
        return Response({**_role(role), "document": role.document, "versions": versions})


class BindingList(Endpoint):
    @documented(
        "bindings_list",
        "Who has which role",
        "For staff. Those of grants too, and those that have ended.",
        tag="policy",
        query=BindingQuery,
        answer=listing(shapes.Binding),
    )
    def get(self, request: Request) -> Response:
        caller_of(request).insist_on_reading("jit_policy.rolebinding")
        asked = query(request, BindingQuery)
        rows = RoleBinding.objects.select_related("role", "agent", "user", "team")
        if "origin" in asked:
            rows = rows.filter(origin=asked["origin"])
        part = part_of(rows, **place(asked))
        return page(request, part, [_binding(binding) for binding in part.rows])


def _role(role: Role) -> dict[str, Any]:
    return {"role_id": str(role.pk), "name": role.name, "head": role.head}


def _binding(binding: RoleBinding) -> dict[str, Any]:
    return {
        "binding_id": str(binding.pk),
        "subject": binding.subject,
        "origin": binding.origin,
        "role": binding.role.name if binding.role else None,
        "grant_id": str(binding.origin_id) if binding.origin_id else None,
        "starts_at": binding.starts_at.isoformat(),
        "expires_at": binding.expires_at.isoformat() if binding.expires_at else None,
        "ended_at": binding.ended_at.isoformat() if binding.ended_at else None,
        "max_uses": binding.max_uses,
    }
