from __future__ import annotations

from django.urls import path, re_path

from jitaccess.api import root
from jitaccess.api.authzen import evaluation, forward, metadata, requests

app_name = "authzen"
urlpatterns = [
    path("evaluation", evaluation.EvaluationView.as_view(), name="evaluation"),
    path("evaluations", evaluation.EvaluationsView.as_view(), name="evaluations"),
    path("requests", requests.SubmissionView.as_view(), name="requests"),
    path("requests/<str:task_id>", requests.TaskView.as_view(), name="task"),
    path("requests/<str:task_id>/cancel", requests.CancelView.as_view(), name="cancel"),
    path("forward-auth", forward.ForwardAuthView.as_view(), name="forward_auth"),
    path("jwks.json", metadata.KeysView.as_view(), name="keys"),
    path("request-schema.json", metadata.RequestSchemaView.as_view(), name="request_schema"),
    re_path("", root.Unknown.as_view()),
]
well_known = [path("authzen-configuration", metadata.MetadataView.as_view(), name="authzen_configuration")]
