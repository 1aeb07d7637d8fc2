from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("jit_policy", "0006_lists_at_scale"),
    ]

    operations = [
        migrations.AlterField(
            model_name="policychange",
            name="version",
            field=models.BigIntegerField(),
        ),
        migrations.AddIndex(
            model_name="policychange",
            index=models.Index(fields=["version", "kind", "key"], name="jit_policy_change"),
        ),
    ]
