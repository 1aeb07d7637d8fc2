"""Tests of jitaccess.policy.engine."""
