from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jit_identity", "0002_labels_and_people"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="accesstoken",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", False)), fields=["revoked_at"], name="jit_token_revoked"
            ),
        ),
    ]
