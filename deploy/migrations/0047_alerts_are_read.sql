-- migrate:up
-- Users say that they have read an alert: nothing else of one ever changes.

INSERT INTO role_rights (role, object, privilege, columns) VALUES
    ('tallystick_billing', 'billing_alerts', 'UPDATE', '{is_read,read_at}');
SELECT apply_role_rights();
