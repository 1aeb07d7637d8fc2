"""Tests of jitaccess.audit."""
